"""What every part of the vocabulary is built with: fixed-signature intrinsics and a few LLVM idioms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sampan.kernels.simd.types import I32, I64, Tile, Vector

Emit = Callable[..., Any]


def define(result: types.Type, *parameters: types.Type) -> Callable[[Emit], Any]:
    """Make an intrinsic with one fixed signature out of `emit(builder, *llvm_values)`."""

    def decorate(emit: Emit) -> Any:
        sig = result(*parameters)

        def codegen(context: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if result is types.void else value

        names = [f"a{i}" for i in range(len(parameters))]
        # Numba reads an intrinsic's arity from its parameter list, so the list is built to measure.
        scope: dict[str, Any] = {"sig": sig, "codegen": codegen}
        exec(f"def {emit.__name__}({', '.join(['context', *names])}):\n    return sig, codegen", scope)
        typed = scope[emit.__name__]
        typed.__doc__ = emit.__doc__
        typed.__module__ = __name__
        return intrinsic(typed)

    return decorate


def pointer_to(builder: ir.IRBuilder, address: ir.Value, element: ir.Type) -> ir.Value:
    return builder.inttoptr(address, element.as_pointer())


def load(builder: ir.IRBuilder, address: ir.Value, element: ir.Type, align: int) -> ir.Value:
    value = builder.load(pointer_to(builder, address, element))
    value.align = align
    return value


def store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value, align: int) -> None:
    builder.store(value, pointer_to(builder, address, value.type)).align = align


def call_function(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


def splat_scalar(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


def constant(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def part_of(builder: ir.IRBuilder, vector: ir.Value, parts: int, index: int) -> ir.Value:
    """Part `index` of a vector cut into `parts` equal pieces."""
    size = vector.type.count // parts
    lanes = ir.Constant(ir.VectorType(I32, size), list(range(index * size, (index + 1) * size)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)


def join_parts(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Inverse of `part_of`."""
    while len(pieces) > 1:
        count = pieces[0].type.count * 2
        lanes = ir.Constant(ir.VectorType(I32, count), list(range(count)))
        pieces = [builder.shuffle_vector(a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def row_address(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    return address if row == 0 else builder.add(address, builder.mul(stride, ir.Constant(I64, row)))


def rint(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Round to nearest even for |value| < 2^22, by adding and taking away 1.5 * 2^23."""
    magic = ir.Constant(value.type, [12582912.0] * value.type.count)
    return builder.fsub(builder.fadd(value, magic), magic)


def map_tile(
    builder: ir.IRBuilder,
    value: ir.Value,
    tile: Tile,
    result: Vector,
    change: Callable[[int, int, ir.Value], ir.Value],
) -> ir.Value:
    """Each vector of a tile replaced by `change(row, column, vector)`, which has the type `result`."""
    out = ir.Constant(ir.ArrayType(result.llvm, tile.height * tile.width), ir.Undefined)
    for row in range(tile.height):
        for column in range(tile.width):
            at = row * tile.width + column
            out = builder.insert_value(out, change(row, column, builder.extract_value(value, at)), at)
    return out


def zero_constant(tile: Tile) -> ir.Constant:
    return ir.Constant(tile.llvm, None)
