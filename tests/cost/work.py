"""Counts the work of our packages, and of parsers they use: the same number for the same input on every machine.

An import hook rewrites the source of these packages before compilation: each block of statements adds its cost to a
counter. One unit is about one operation of the interpreter: a call is three, an attribute, a subscript or an operator
is one. Loops inside C count as well, which a profiler of calls does not see: a slice, a concatenation, `in` on a list,
`sorted`, `list.insert` and their like add the number of their elements. Cryptography and codecs have fixed prices.
"""

import ast
import sys
from collections import deque
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple

OURS = ("antiphon_common", "antiphon_relay", "antiphon_transceiver", "antiphon_signaling", "antiphon_backend")
"""Our packages whose work counts: all but `antiphon`, whose client only gets cores ready."""

PARSERS = ("h11", "wsproto", "trio_websocket", "starlette", "python_multipart")
"""Packages of others that parse in Python what peers send: their work counts too."""

CALL, OPERATION = 3, 1
"""Units of a call and of any other operation."""

ELEMENTS, BYTES = 4, 64
"""Elements of a list and bytes of a string that C goes through for one unit."""

PARSED_BYTES = 8
"""The same for bytes of JSON or MessagePack, where msgspec decodes or encodes them, and of text that a regular
expression goes through."""

PRICES = {
    "antiphon_transceiver.audio.opus": {"_run": 2_000, "encode": 10_000},
    "antiphon_transceiver.audio.resample": {"resample": 3_000},
    "antiphon_transceiver.dtls.certificate": {"load_public_key": 2_000},
    "antiphon_transceiver.dtls.groups": {"exchange": 5_000, "generate_key_share": 3_000},
    "antiphon_transceiver.dtls.suites": {"sign": 3_000, "verify": 6_000},
}
"""Units of functions whose work is libopus's or OpenSSL's: 20 µs to 100 µs each."""

LINEAR = frozenset(
    [
        "copy",
        "count",
        "decode",
        "difference",
        "encode",
        "extend",
        "find",
        "fromhex",
        "hex",
        "index",
        "insert",
        "intersection",
        "issubset",
        "issuperset",
        "join",
        "lower",
        "partition",
        "remove",
        "replace",
        "reverse",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "sort",
        "split",
        "splitlines",
        "strip",
        "translate",
        "union",
        "update",
        "upper",
    ]
)
"""Methods of built-in types that go through the whole of what they belong to, or of their arguments."""

EXPRESSIONS = frozenset(["findall", "finditer", "fullmatch", "match", "search", "sub"])
"""Methods of regular expressions."""

CONSUMERS = frozenset(
    [
        "all",
        "any",
        "bytearray",
        "bytes",
        "dict",
        "frozenset",
        "list",
        "max",
        "memoryview",
        "min",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
    ]
)
"""Built-in functions that go through their arguments."""


class TooExpensiveError(BaseException):
    """An input took more than the limit. It is no Exception, so that our sources do not catch it."""


class Patch(NamedTuple):
    """A planted fault: text of our sources that is replaced before compilation."""

    find: str
    replace: str


count = [0]
"""Units so far."""

_limit = [1 << 62]
_most_expensive = [0]


def measure(action: Callable[[], object], limit: int) -> int:
    """Return the units of an action or, if it has several steps, of its most expensive step.

    Raises TooExpensiveError above `limit`.
    """
    count[0], _limit[0], _most_expensive[0] = 0, limit, 0
    try:
        action()
    finally:
        _limit[0] = 1 << 62
    return max(count[0], _most_expensive[0])


def begin() -> None:
    """Reset the count: only the work from now on is measured."""
    count[0], _most_expensive[0] = 0, 0


def step() -> None:
    """End the present step: other tasks are scheduled before the action continues."""
    _most_expensive[0] = max(_most_expensive[0], count[0])
    count[0] = 0


def paid(units: int) -> None:
    """Subtract units that a budget charges separately."""
    count[0] -= units


# What the rewritten sources call.


def turn(units: int) -> bool:
    """Count one turn of a loop, or a call with a price; return True."""
    count[0] += units
    if count[0] > _limit[0]:
        raise TooExpensiveError(f"more than {_limit[0]} units")
    return True


def sized(value: Any) -> Any:
    """Count going through a built-in container, and return it."""
    kind = type(value)
    if kind is bytes or kind is str or kind is bytearray or kind is memoryview:
        count[0] += len(value) // BYTES
    elif kind is list or kind is dict or kind is tuple or kind is set or kind is deque or kind is frozenset:
        count[0] += len(value) // ELEMENTS
    return value


def parsed(value: Any) -> Any:
    """Count the bytes of JSON or MessagePack that msgspec reads or has written, and return them."""
    if isinstance(value, bytes | str | bytearray):
        count[0] += len(value) // PARSED_BYTES
    return value


def shifted(value: Any) -> Any:
    """Count moving the elements behind one that enters or leaves a list, and return the list. A bytearray moves none
    when it loses its first bytes."""
    if type(value) is list:
        count[0] += len(value) // ELEMENTS
    return value


def searched(value: Any) -> Any:
    """Count a search for `in`, unless the container has a hash table, and return the container."""
    kind = type(value)
    if kind is list or kind is tuple or kind is deque:
        count[0] += len(value)
    elif kind is bytes or kind is str:
        count[0] += len(value) // BYTES
    return value


def copied(value: Any) -> None:
    """Count that `+=` made a new string or tuple."""
    kind = type(value)
    if kind is bytes or kind is str:
        count[0] += len(value) // BYTES
    elif kind is tuple:
        count[0] += len(value) // ELEMENTS


HOOKS = ("count", "turn", "sized", "parsed", "shifted", "searched", "copied")


class _Counting(ast.NodeTransformer):
    """Adds counters to a module. Weights are taken of the source as it was."""

    def __init__(self, module: str) -> None:
        self._prices = PRICES.get(module, {})

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.generic_visit(node)
        header = ast.ImportFrom(__name__, [ast.alias(name, f"__{name}__") for name in HOOKS], 0)
        node.body.insert(_first_statement(node.body), header)
        return node

    def _visit_function(self, node: Any) -> Any:
        weight = CALL + _weigh_block(node.body) + self._prices.get(node.name, 0)
        self.generic_visit(node)
        node.body.insert(_first_statement(node.body), _add(weight))
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        weight = CALL + _weigh(node.body)
        self.generic_visit(node)
        node.body = _counted(node.body, weight)
        return node

    def _visit_loop(self, node: Any) -> Any:
        weight = OPERATION + _weigh_block(node.body) + (_weigh(node.test) if isinstance(node, ast.While) else 0)
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(_call("turn", ast.Constant(weight))))
        return node

    visit_For = visit_While = visit_AsyncFor = _visit_loop  # noqa: N815

    def visit_If(self, node: ast.If) -> ast.If:
        weights = _weigh_block(node.body), _weigh_block(node.orelse)
        self.generic_visit(node)
        node.body.insert(0, _add(weights[0]))
        if node.orelse:
            node.orelse.insert(0, _add(weights[1]))
        return node

    def _visit_branch(self, node: Any) -> Any:
        weight = 2 * OPERATION + _weigh_block(node.body)
        self.generic_visit(node)
        node.body.insert(0, _add(weight))
        return node

    visit_match_case = visit_ExceptHandler = _visit_branch  # noqa: N815

    def _visit_comprehension(self, node: Any) -> Any:
        weight = sum(map(_weigh, [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]))
        weight += sum(OPERATION + sum(map(_weigh, generator.ifs)) for generator in node.generators)
        self.generic_visit(node)
        for generator in node.generators:
            generator.ifs.insert(0, _call("turn", ast.Constant(weight)))
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Name) and called.id in CONSUMERS:
            node.args = [_call("sized", argument) for argument in node.args]
        elif isinstance(called, ast.Attribute):
            if _is_msgspec(called):
                node.args = [_call("parsed", argument) for argument in node.args]
                return _call("parsed", node)
            if called.attr in LINEAR:
                called.value = _call("sized", called.value)
                node.args = [_call("sized", argument) for argument in node.args]
            elif called.attr in EXPRESSIONS:
                node.args = [_call("parsed", argument) for argument in node.args]
            elif called.attr == "pop" and node.args:
                called.value = _call("shifted", called.value)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        copies = isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load)
        return _call("sized", node) if copies else node

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        return _call("sized", node) if isinstance(node.op, ast.Add | ast.Mult) else node

    def visit_Starred(self, node: ast.Starred) -> Any:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            node.value = _call("sized", node.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        self.generic_visit(node)
        for index, operator in enumerate(node.ops):
            if isinstance(operator, ast.In | ast.NotIn):
                node.comparators[index] = _call("searched", node.comparators[index])
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Add) or isinstance(node.target, ast.Subscript):
            return node
        node.value = _call("sized", node.value)
        return [node, ast.Expr(_call("copied", _loaded(node.target)))]

    def visit_Delete(self, node: ast.Delete) -> Any:
        self.generic_visit(node)
        shorter = [target.value for target in node.targets if isinstance(target, ast.Subscript)]
        simple = [value for value in shorter if isinstance(value, ast.Name | ast.Attribute)]
        return [*(ast.Expr(_call("shifted", _loaded(value))) for value in simple), node]

    # Patterns, annotations and the like are not instrumented.

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        return node

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.MatchValue:
        return node


def _first_statement(body: list[ast.stmt]) -> int:
    """Return where a statement may stand: behind the docstring and imports from __future__."""
    first = body[0] if body else None
    index = 1 if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else 0
    while index < len(body) and getattr(body[index], "module", None) == "__future__":
        index += 1
    return index


def _call(hook: str, argument: ast.expr) -> ast.expr:
    if isinstance(argument, ast.Starred):
        return argument
    return ast.Call(ast.Name(f"__{hook}__", ast.Load()), [argument], [])


def _counted(value: ast.expr, weight: int) -> ast.expr:
    return ast.BoolOp(ast.And(), [_call("turn", ast.Constant(weight)), value])


def _add(weight: int) -> ast.stmt:
    counter = ast.Subscript(ast.Name("__count__", ast.Load()), ast.Constant(0), ast.Store())
    return ast.AugAssign(counter, ast.Add(), ast.Constant(weight))


def _loaded(target: ast.expr) -> ast.expr:
    """Return an expression that reads what `target` names."""
    return ast.parse(ast.unparse(target), mode="eval").body


def _is_msgspec(called: ast.Attribute) -> bool:
    """Return whether a call is one of msgspec's coders. Ours are methods with other names."""
    owner = ast.unparse(called.value).lower()
    return called.attr in ("decode", "encode", "encode_into") and (
        "json" in owner or owner.endswith(("coder", "msgpack"))
    )


_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _weigh_block(block: Sequence[ast.stmt]) -> int:
    """Return the units of a block's statements, without blocks that may be run more or less often."""
    return sum(map(_weigh_statement, block))


def _weigh_statement(statement: ast.stmt) -> int:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return OPERATION
    weight = OPERATION
    for name, value in ast.iter_fields(statement):
        if name not in _BLOCKS:
            weight += sum(map(_weigh, value if isinstance(value, list) else [value]))
    if isinstance(statement, ast.With | ast.AsyncWith):
        weight += 2 * CALL + _weigh_block(statement.body)
    elif isinstance(statement, ast.Try):
        weight += sum(map(_weigh_block, (statement.body, statement.orelse, statement.finalbody)))
    return weight


def _weigh(node: object) -> int:
    """Return the units of an expression, without those of comprehensions in it."""
    if not isinstance(node, ast.AST):
        return 0
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return CALL + _weigh(node.generators[0].iter)
    if isinstance(node, ast.Lambda):
        return OPERATION
    weight = CALL if isinstance(node, ast.Call) else OPERATION if isinstance(node, _OPERATIONS) else 0
    return weight + sum(map(_weigh, ast.iter_child_nodes(node)))


_OPERATIONS = (
    *(ast.Attribute, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.JoinedStr),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set),
)


class _Loader(SourceFileLoader):
    """Compiles a module with counters in it, and with the patches that fit it; keeps no bytecode."""

    patches: Sequence[Patch] = ()

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = self.get_data(path).decode()
        for patch in self.patches:
            text = text.replace(patch.find, patch.replace)
        tree = ast.fix_missing_locations(_Counting(fullname).visit(ast.parse(text, path)))
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in (*OURS, *PARSERS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def install(patches: Sequence[Patch] = ()) -> None:
    """Count the work of packages that are imported from now on, with patches in their sources."""
    early = [name for name in sys.modules if name.partition(".")[0] in (*OURS, *PARSERS)]
    if early:
        raise RuntimeError(f"imported before their work could be counted: {', '.join(early)}")
    _Loader.patches = patches
    sys.meta_path.insert(0, _Finder())
