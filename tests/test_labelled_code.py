"""Program code and arithmetic in the labelled corpus: labels against Python's own reading, and every sum done again."""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from kanary.text.labelled import pairs
from labelled_passages import passages, said, spans

# --- code ---------------------------------------------------------------------------------------------------------


def tokens(text: str) -> Iterator[tuple[int, int, tokenize.TokenInfo]]:
    """Start, end and token, by Python's own reading."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        yield starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1], token


def test_code_is_valid_and_its_labels_are_what_python_reads() -> None:
    for passage in passages("code"):
        tree = ast.parse(passage.text)
        read = list(tokens(passage.text))
        by_kind = {"code.comment": tokenize.COMMENT, "code.string": tokenize.STRING}
        for concept, kind in by_kind.items():
            assert {(s.start, s.end) for s in spans(passage, concept)} == {(a, b) for a, b, t in read if t.type == kind}
        words = {(a, b) for a, b, t in read if t.type == tokenize.NAME and keyword.iskeyword(t.string)}
        assert {(s.start, s.end) for s in spans(passage, "code.keyword")} == words
        assert set(said(passage, "code.loop")) <= {"for", "while", "continue"}
        assert set(said(passage, "code.branch")) <= {"if", "elif", "else"}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert said(passage, "code.function_defined") == [node.name for node in functions]
        assert len(said(passage, "code.docstring")) == sum(ast.get_docstring(node) is not None for node in functions)
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = [
            f.attr if isinstance(f, ast.Attribute) else f.id for f in called if isinstance(f, ast.Attribute | ast.Name)
        ]
        assert Counter(said(passage, "code.function_name")) == Counter(names + [node.name for node in functions])


def test_indented_lines_are_marked_with_their_depth() -> None:
    for passage in passages("code"):
        start, expected = 0, set()
        for line in passage.text.split("\n"):
            if line.startswith(" "):
                expected.add(
                    (start + len(line) - len(line.lstrip()), start + len(line), line.count("    ", 0, 12) * 1.0)
                )
            start += len(line) + 1
        found = {(s.start, s.end, s.value) for s in spans(passage, "code.indent")}
        assert {(a, b) for a, b, _ in found} == {(a, b) for a, b, _ in expected}
        for start, _, depth in found:
            before = passage.text[passage.text.rfind("\n", 0, start) + 1 : start]
            assert before == "    " * int(depth or 0)


def test_a_bracket_question_closes_what_is_open() -> None:
    closing = {"(": ")", "[": "]", "{": "}"}
    for passage in passages("code"):
        for question in passage.questions:
            if question.skill != "brackets":
                continue
            open_ones = []
            for start, _, token in tokens(passage.text):
                if start >= question.end:
                    break
                if token.string in closing:
                    open_ones.append(closing[token.string])
                elif token.type == tokenize.OP and token.string in closing.values():
                    assert open_ones.pop() == token.string
            for bracket in question.answer.rstrip(":,"):
                assert open_ones.pop() == bracket
            assert passage.text[question.end - 1].isalnum()
            assert {wrong[0] for wrong in question.wrong} == set(")]}") - {question.answer[0]}


def test_a_repeated_name_was_there_before() -> None:
    for passage in passages("code"):
        for question in passage.questions:
            if question.skill == "repeated_name":
                before = set(re.findall(r"\w+", passage.text[: question.end]))
                assert question.answer.strip() in before
                assert {wrong.strip() for wrong in question.wrong} <= set(re.findall(r"\w+", passage.text))


def test_comments_and_docstrings_change_nothing_of_a_program() -> None:
    for on, off in islice(pairs("code.comment"), 60):
        assert ast.dump(ast.parse(on.text)) == ast.dump(ast.parse(off.text))
    for on, off in islice(pairs("code.docstring"), 60):
        tree = ast.parse(on.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        assert ast.dump(tree) == ast.dump(ast.parse(off.text))


# --- arithmetic ---------------------------------------------------------------------------------------------------

OPERATIONS = {"+": "addition", "-": "subtraction", "×": "multiplication", "÷": "division"}


def value(expression: str) -> int:
    first, operation, *rest = expression.split()
    a, others = int(first), [int(word) for word in rest if word != "+"]
    if operation == "+":
        return a + sum(others)
    (b,) = others
    return {"-": a - b, "×": a * b, "÷": a // b if a % b == 0 else -1}[operation]


def test_every_calculation_is_right_and_labelled_as_what_it_is() -> None:
    for passage in passages("arithmetic"):
        written = {(m.start(), m.end()) for m in re.finditer(r"\d+ [-+×÷] \d+(?: \+ \d+)*", passage.text)}
        assert {(s.start, s.end) for s in spans(passage, "arithmetic.operation")} == written
        for start, end in written:
            expression = passage.text[start:end]
            assert value(expression) >= 0, expression
            here = {s.concept for s in passage.spans if (s.start, s.end) == (start, end)}
            assert f"arithmetic.{OPERATIONS[expression.split()[1]]}" in here
            result = re.match(r"(?: =| is| makes| comes to) (\d+)", passage.text[end:])
            if result:
                assert int(result.group(1)) == value(expression), passage.text
        for span in spans(passage, "arithmetic.result"):
            if span.value is not None:
                assert passage.text[span.start : span.end] == f"{span.value:.0f}"
        for step in said(passage, "arithmetic.step"):
            left, right = step.split(" = ")
            assert value(left) == int(right)


def test_a_word_problem_is_worked_out_from_what_it_says() -> None:
    solved = 0
    for passage in passages("arithmetic"):
        steps = said(passage, "arithmetic.step")
        if not steps or "?" not in passage.text or passage.text.count("?") > 1:
            continue
        story = [int(n) for n in re.findall(r"\d+", passage.text[: passage.text.index("?")].replace("Problem 7", ""))]
        if re.search(r"\d [-+×÷]", passage.text[: passage.text.index("?")]):
            continue
        operands = [[int(n) for n in re.findall(r"\d+", step.split("=")[0])] for step in steps]
        results = [int(step.split("= ")[1]) for step in steps]
        assert [operands[0][0], *[row[1] for row in operands]] == story
        assert [row[0] for row in operands[1:]] == results[:-1]
        assert said(passage, "arithmetic.answer") == [str(results[-1])]
        solved += 1
    assert solved > 150


def test_what_is_carried_was_more_than_nine() -> None:
    carried = 0
    for passage in passages("arithmetic", 1500):
        carries = spans(passage, "arithmetic.carry")
        for span in carries:
            before = [s for s in spans(passage, "arithmetic.step") if s.end <= span.start][-1]
            assert int(passage.text[before.start : before.end].split("= ")[1]) > 9
            carried += 1
        ones = [s for s in said(passage, "arithmetic.step") if re.fullmatch(r"\d \+ \d = 1\d", s)]
        if not re.search(r"How many|What|number of|day end", passage.text):
            assert len(carries) == 2 * len(ones) or any("×" in s for s in said(passage, "arithmetic.step"))
    assert carried > 50
