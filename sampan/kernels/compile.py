"""From kernels in Python to object files for this machine.

`python -m sampan.kernels.compile PART` writes one to its standard output; `compiled.py` starts a process for
each part that is missing.
"""

from __future__ import annotations

import sys
from typing import Any

import llvmlite.binding as llvm
from numba.core import codegen, types
from numba.core.registry import cpu_target

from sampan.formats import MATRIX_FORMATS
from sampan.kernels.jit import kernel
from sampan.kernels.machine_code import INTERPRETER, SYMBOL, product_symbol
from sampan.kernels.separate import PRODUCT_ARGUMENTS, use_symbols

# Numba's functions return a status and take the addresses of a result and an error; kernels raise none.
_ENTER = """
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
_PRODUCT = """
define void @{symbol}({parameters}) {{
  %result = alloca ptr
  %error = alloca ptr
  store ptr null, ptr %result
  store ptr null, ptr %error
  %status = call i32 @{native}(ptr %result, ptr %error, {parameters})
  ret void
}}
"""


class _Library(codegen.JITCodeLibrary):
    """Functions of one kernel, which stay as they are written until `_object_file` sees all of them."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def get_pointer_to_function(self, _name: str) -> int:
        return 0


class _Codegen(codegen.JITCPUCodegen):
    """Compiles nothing by itself.

    Numba makes each kernel's machine code, and again as a part of every kernel that calls it. This takes
    more time than all that is wanted.
    """

    _library_class = _Library

    def set_env(self, _name: str, _environment: Any) -> None:
        """Only code that Python calls has one."""


def compile_part(part: str) -> bytes:
    """An object file of `INTERPRETER`, with `enter` as `SYMBOL`, or of a matrix format's products, as
    `product_symbol(part)`.

    This process cannot run kernels afterwards.
    """
    cpu_target.target_context._internal_codegen = _Codegen("sampan")
    if part == INTERPRETER:
        use_symbols()
        from sampan.kernels.interpreter import enter

        return _object_file(kernel(enter), (types.int64, types.int64), SYMBOL, _ENTER)
    from sampan.kernels.products import make_product

    product = make_product(MATRIX_FORMATS[part])
    return _object_file(product, PRODUCT_ARGUMENTS, product_symbol(part), _PRODUCT)


def _object_file(function: Any, arguments: tuple[Any, ...], symbol: str, wrapper: str) -> bytes:
    function.compile(arguments)
    (result,) = function.overloads.values()
    module = llvm.parse_assembly("")
    for library in _libraries(result.library, {}):
        module.link_in(library._final_module)
    names = {types.int64: "i64", types.float32: "float"}
    parameters = ", ".join(f"{names[kind]} %a{index}" for index, kind in enumerate(arguments))
    native = result.fndesc.llvm_func_name
    text = wrapper.format(symbol=symbol, native=native, parameters=parameters)
    module = llvm.parse_assembly(str(module) + text)
    # All but the wrapper becomes internal, so that what only Python would call falls away.
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != symbol:
            value.linkage = "internal"
    machine = cpu_target.target_context.codegen()._tm
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _libraries(library: Any, seen: dict[Any, None]) -> dict[Any, None]:
    """A library and all it calls, those first."""
    if library not in seen:
        for other in library._linking_libraries:
            _libraries(other, seen)
        seen[library] = None
    return seen


def main() -> None:
    """Write the part that the command line names."""
    sys.stdout.buffer.write(compile_part(sys.argv[1]))


if __name__ == "__main__":
    main()
