"""From the interpreter in Python to one object file for this machine."""

from __future__ import annotations

from typing import Any, cast

import llvmlite.binding as llvm
from numba.core import types
from numba.core.registry import cpu_target

from sampan.kernels.interpreter import enter
from sampan.kernels.jit import kernel
from sampan.kernels.machine_code import SYMBOL

# Numba's functions return a status and take the addresses of a result and an error; kernels raise none.
_WRAPPER = """
define i64 @{symbol}(i64 %state, i64 %thread) {{
  %result = alloca i64
  %error = alloca ptr
  store i64 0, ptr %result
  store ptr null, ptr %error
  %status = call i32 @{native}(ptr %result, ptr %error, i64 %state, i64 %thread)
  %value = load i64, ptr %result
  ret i64 %value
}}
"""


def compile_entry() -> bytes:
    """An object file with `enter` and all kernels behind it as `SYMBOL`; takes some tens of seconds."""
    compiled = cast(Any, kernel(enter))
    compiled.compile((types.int64, types.int64))
    (result,) = compiled.overloads.values()
    wrapper = _WRAPPER.format(symbol=SYMBOL, native=result.fndesc.llvm_func_name)
    module = llvm.parse_assembly(result.library.get_llvm_str() + wrapper)
    # All but the wrapper becomes internal, so that what only Python would call falls away.
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != SYMBOL:
            value.linkage = "internal"
    machine = cpu_target.target_context.codegen()._tm
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return bytes(machine.emit_object(module))
