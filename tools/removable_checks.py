# SPDX-License-Identifier: Apache-2.0
"""Find the checks of a source file and make each of them removable, for check_removal.py.

A check is a statement that refuses something: a raise, a call of a checking function, a return of a
problem or of a status that is not OK. Of a condition `a or b` each operand is a check of its own.
Every one is rewritten so that it asks `stands(number)` just when it fires: that records who made it
fire, and answers no for the one check that is removed.
"""

import ast
import re
from typing import NamedTuple
from zlib import crc32


class Check(NamedTuple):
    """`number` stays the same as long as the text of the check does."""

    number: int
    path: str
    line: int
    text: str


class Checks:
    """The checks of one file, numbered."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Check] = []
        self._texts: dict[str, int] = {}

    def add(self, line: int, text: str) -> int:
        text = " ".join(text.split())
        times = self._texts[text] = self._texts.get(text, 0) + 1
        number = crc32(f"{self.path} {text} {times}".encode())
        self.found.append(Check(number, self.path, line, text))
        return number


# ---- Python ----

_CHECKING = re.compile(r"_?(check|refuse|raise)(_\w+)?")
_NO_REFUSAL = ("StopIteration", "NotImplementedError")


def instrument_python(path: str, source: str) -> tuple[str, list[Check]]:
    """Return the source with its checks made removable, and the checks."""
    checks = Checks(path)
    tree = _Python(checks).visit(ast.parse(source))
    is_future = [isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body]
    at = is_future.index(True) + 1 if any(is_future) else 1
    tree.body.insert(at, ast.parse("from removal_probe import stands as _stands").body[0])
    return ast.unparse(ast.fix_missing_locations(tree)), checks.found


class _Python(ast.NodeTransformer):
    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._returns_problem = False

    def _stands(self, node: ast.AST, text: str | None = None) -> ast.expr:
        number = self._checks.add(node.lineno, text or ast.unparse(node))
        return ast.parse(f"_stands({number})", mode="eval").body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer = self._returns_problem
        self._returns_problem = (
            node.returns is not None and ast.unparse(node.returns) == "str | None"
        )
        self.generic_visit(node)
        self._returns_problem = outer
        return node

    def _refuses(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Raise):
            return node.exc is not None and not ast.unparse(node.exc).startswith(_NO_REFUSAL)
        return (
            self._returns_problem
            and isinstance(node, ast.Return)
            and (
                isinstance(node.value, ast.JoinedStr)
                or (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
            )
        )

    def visit_If(self, node: ast.If) -> ast.AST:
        alternatives = isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or)
        if len(node.body) == 1 and self._refuses(node.body[0]) and alternatives:
            node.test.values = [
                ast.BoolOp(ast.And(), [value, self._stands(value)]) for value in node.test.values
            ]
            node.orelse = [self.visit(n) for n in node.orelse]
            return node
        return self.generic_visit(node)

    def _statement(self, node: ast.stmt) -> ast.AST:
        return ast.If(self._stands(node), [node], []) if self._refuses(node) else node

    visit_Raise = visit_Return = _statement

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if not isinstance(node.value, ast.Call):
            return node
        name = ast.unparse(node.value.func).split(".")[-1]
        if not _CHECKING.fullmatch(name):
            return node
        again = ast.If(self._stands(node), [ast.Raise(None, None)], [])
        handler = ast.ExceptHandler(ast.Name("Exception"), None, [again])
        return ast.Try([node], [handler], [], [])


# ---- C++ ----

_REFUSAL = re.compile(r"\s*return (?:Status::(?!OK\b)\w+|false|status|frame);")
_CHOICE = re.compile(r"\breturn ((?:(?!return|;).)*?)\s*\?\s*Status::OK\s*: Status::\w+;", re.S)
_FLAG = re.compile(r"\b(?:padding_zero|consumed|final_states) &?=\s*((?!\s|true\b)[^;]+);")
_PREDICATE = re.compile(r"\bbool (?:read_\w+|\w*legal)\([^;{]*{")
_RESULT = re.compile(r"\breturn ((?!true\b|false\b)[^;]+);")


def instrument_cpp(path: str, source: str) -> tuple[str, list[Check]]:
    """Return the source with its checks made removable, and the checks."""
    checks = Checks(path)
    edits: list[tuple[int, int, str]] = []

    def edit(start: int, end: int, operator: str, ask: str) -> None:
        for begin, stop in _operands(source, start, end, operator):
            text = source[begin:stop]
            line = source.count("\n", 0, begin) + 1
            edits.append((begin, stop, f"(({text}) {ask}stands({checks.add(line, text)}u))"))

    for match in re.finditer(r"\bif \(", source):
        end = _closing(source, match.end())
        if _REFUSAL.match(source, end + 1):
            edit(match.end(), end, "||", "&& ")
    for match in re.finditer(r"^ +check\(", source, re.M):
        end = _operands(source, match.end(), _closing(source, match.end()), ",")[0][1]
        edit(match.end(), end, "&&", "|| !")
    for pattern in (_CHOICE, _FLAG):
        for match in pattern.finditer(source):
            edit(*match.span(1), "&&", "|| !")
    for match in _PREDICATE.finditer(source):
        for result in _RESULT.finditer(source, match.end(), _closing(source, match.end())):
            edit(*result.span(1), "&&", "|| !")
    for begin, stop, text in sorted(edits, reverse=True):
        source = source[:begin] + text + source[stop:]
    return f'#include "removal_probe.hpp"\n{source}', checks.found


def _closing(source: str, at: int) -> int:
    """Return where the bracket that was opened before `at` is closed."""
    depth = 1
    while True:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(source[at], 0)
        if depth == 0:
            return at
        at += 1


def _operands(source: str, start: int, end: int, operator: str) -> list[tuple[int, int]]:
    """Return the spans of the operands of a binary operator outside of brackets."""
    spans = []
    depth, begin, at = 0, start, start
    while at < end:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(source[at], 0)
        if depth == 0 and source.startswith(operator, at):
            spans.append((begin, at))
            begin = at = at + len(operator)
        else:
            at += 1
    return [*spans, (begin, end)]
