"""Single faults that a source file could have, each a small change of its syntax tree."""

from __future__ import annotations

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import TypeVar

N = TypeVar("N", bound=ast.AST)

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
COMMUTATIVE = {"min", "max", "gcd", "isinstance", "range", "zip"}  # or a certain crash, which proves nothing
REPORTS = {"print", "echo", "log", "debug", "info", "warning"}  # lines for a person, seldom worth a test


@dataclass(frozen=True)
class Fault:
    """One change of one file.

    Args:
        path: the file, relative to the project.
        line: number of its first line, from 1.
        kind: short name of the change.
        start, end: bytes of the file that it replaces.
        text: what takes their place.
    """

    path: str
    line: int
    kind: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the file with the fault in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """Return the lines that change, each after a sign."""
        before, after = (text.decode().splitlines() for text in (source, self.apply(source)))
        return "\n".join(list(unified_diff(before, after, n=0, lineterm=""))[3:])


def find_faults(path: str, source: bytes) -> list[Fault]:
    """Return every fault that this file could have; each result can be compiled.

    Args:
        path: goes into the faults.
        source: the file's content.
    """
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.found


def sample(faults: Iterable[Fault], count: int, seed: int) -> list[Fault]:
    """Return faults in random order, at most one a line, so that a line of numbers does not outweigh a condition."""
    rng = random.Random(seed)
    lines: defaultdict[tuple[str, int], list[Fault]] = defaultdict(list)
    for fault in faults:
        lines[fault.path, fault.line].append(fault)
    chosen = rng.sample(sorted(lines), min(count, len(lines)))
    return [rng.choice(lines[line]) for line in chosen]


@dataclass
class _Finder(ast.NodeVisitor):
    """A walk through code that runs: neither annotations, decorators and docstrings, nor the text of messages."""

    path: str
    source: bytes
    found: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.offsets = [0]
        for line in self.source.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all([*node.args.defaults, *(default for default in node.args.kw_defaults if default)])
        self._visit_all(node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "dropped statement", "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        if not isinstance(node.targets[0], ast.Name | ast.Tuple):  # a name that is missing only crashes
            self._add(node, "dropped statement", "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "dropped statement", "pass")
        if type(node.op) in ARITHMETIC:
            self._add(node, "arithmetic", _changed(node, op=ARITHMETIC[type(node.op)]()))
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and _name(call.func) not in REPORTS:
            self._add(node, "dropped statement", "pass")
            self.visit(call)

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if _name(node.test) == "TYPE_CHECKING":
            return
        self._add(node.test, "negated condition", f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If  # noqa: N815

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operation in enumerate(node.ops):
            ops = [*node.ops[:index], COMPARISONS[type(operation)](), *node.ops[index + 1 :]]
            self._add(node, "comparison", _changed(node, ops=ops))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add(node, "and/or", f"({_changed(node, op=other)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not _holds_text(node):  # texts and paths would only crash
            self._add(node, "arithmetic", f"({_changed(node, op=ARITHMETIC[type(node.op)]())})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, "constant", repr(not node.value))
        elif isinstance(node.value, int):
            self._add(node, "constant", repr(node.value + 1))
        elif isinstance(node.value, float):
            self._add(node, "constant", repr(node.value * 2 or 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node.func)
        if name in FUNCTIONS:
            function = copy.deepcopy(node.func)
            setattr(function, "id" if isinstance(function, ast.Name) else "attr", FUNCTIONS[name])
            self._add(node.func, "function", ast.unparse(function))
        pair = node.args[:2]
        texts = {ast.unparse(argument) for argument in pair if not isinstance(argument, ast.Starred)}
        if len(texts) == 2 and name not in COMMUTATIVE:
            self._add(node, "swapped arguments", _changed(node, args=[*reversed(pair), *node.args[2:]]))
        if not name[:1].isupper():  # a constructor without an argument mostly crashes
            for index, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    rest = [*node.keywords[:index], *node.keywords[index + 1 :]]
                    self._add(node, "dropped argument", _changed(node, keywords=rest))
        self.visit(node.func)
        self._visit_all([*node.args, *(keyword.value for keyword in node.keywords)])

    def _visit_all(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _add(self, node: ast.stmt | ast.expr, kind: str, text: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.offsets[node.lineno - 1] + node.col_offset
        end = self.offsets[node.end_lineno - 1] + node.end_col_offset
        self.found.append(Fault(self.path, node.lineno, kind, start, end, text))


def _changed(node: N, **fields: object) -> str:
    changed = copy.copy(node)
    vars(changed).update(fields)
    return ast.unparse(changed)


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name, or nothing."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _holds_text(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(node))
