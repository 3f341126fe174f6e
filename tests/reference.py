#!/usr/bin/env python3
"""The reference of public names, made from brubeck_lite.py itself: signatures as written, docstrings, types.

    tests/reference.py             prints it, in Markdown
    tests/reference.py --write     writes it to examples/reference.md, and what `brubeck_lite --help` prints into
                                   examples/manual.md, below that command
    tests/reference.py --check     fails where these pages have another, and where a public name has no docstring

Public is what has no underscore before its name, at the top level and in classes. `PROMISED` are the names that
programs are written against: they are listed first, with all their members; what else is public follows in a line each,
for those who build on the parts.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE, MANUAL = ROOT / "examples" / "reference.md", ROOT / "examples" / "manual.md"
HEAD = """\
# Reference

The public names of brubeck_lite. `tests/reference.py --write` makes this page from the docstrings; what one does with
them is in the [manual](manual.md).

"""
NOT_LISTED = ("TypeVar", "ParamSpec", "_Late", "logging.")  # how the values of variables begin that are nobody's
PROMISED = {
    "Brubeck": "run running spawn handle test route get post put patch delete websocket static mount url_for error "
    "wrap on_start on_stop converters json_dumps templates session_cookie secret",
    "Request": "method path version query headers cookies host scheme url remote_addr body stream json form files "
    "session state connected app route arguments environ sender conn_id get_argument get_arguments url_for "
    "get_signed_cookie current_user when_done",
    "Headers": "", "MultiDict": "getall", "UploadedFile": "name filename content_type size save",
    "Response": "body status headers set_cookie delete_cookie conditional", "ResponseHeaders": "add",
    "HTTPError": "status message headers members", "ProtocolError": "status",
    "SessionCookie": "name max_age secure samesite",
    "redirect": "", "abort": "", "static_file": "", "safe_target": "", "event_stream": "", "sign": "", "unsign": "",
    "hash_password": "", "check_password": "", "authenticated": "", "basic_auth": "", "bearer_auth": "", "cors": "",
    "csrf": "", "csrf_token": "", "compress": "", "render": "", "jinja2_templates": "",
    "Event": "", "Channel": "publish subscribe", "Subscription": "get close",
    "MessageHandler": "prepare unsupported on_finish methods app request",
    "WebMessageHandler": "set_status headers set_cookie redirect render_error",
    "ArgumentsMixin": "get_argument get_arguments", "AuthMixin": "current_user get_current_user",
    "TemplateMixin": "render",
    "Client": "request get head post put patch delete options websocket cookies",
    "Answer": "status headers body text json request events close", "main": "",
    "parse_mongrel2": "", "format_reply": "", "parse_netstring": "", "format_netstring": "", "parse_tnetstring": "",
    "format_tnetstring": "",
    "Mongrel2Connection": "recv reply deliver close_client close", "HTTPConnection": "",
    "WebSocket": "receive send ping close closed follow request",
}  # fmt: skip


class Name(NamedTuple):
    """A public name: its code (a signature, an attribute with its type), what is said of it, and its members."""

    name: str
    code: str
    text: str
    members: dict[str, Name]


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def comment_of(line: str) -> str:
    """What stands behind the code of a line, as in `size = 100  # messages`."""
    return line.rpartition("  # ")[2] if "  # " in line and "fmt:" not in line else ""


class Reader:
    """Reads the public names of a module out of its source."""

    def __init__(self, source: str) -> None:
        self.lines = source.splitlines()
        self.tree = ast.parse(source)

    def written(self, node: ast.AST | None) -> str:
        """An expression as it stands there, in one line."""
        if not isinstance(node, ast.expr) or node.end_lineno is None:
            return ""
        lines = [line.encode() for line in self.lines[node.lineno - 1 : node.end_lineno]]  # columns count bytes
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return one_line(b"\n".join(lines).decode())

    def argument(self, argument: ast.arg, default: ast.expr | None) -> str:
        kind = f": {self.written(argument.annotation)}" if argument.annotation else ""
        return argument.arg + kind + (f"{' = ' if kind else '='}{self.written(default)}" if default else "")

    def signature(self, function: ast.FunctionDef, bound: bool = False) -> str:
        """The arguments, without self, and what is returned."""
        arguments = function.args
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
        given = [self.argument(*each) for each in zip(plain, defaults, strict=True)]
        if arguments.posonlyargs:
            given.insert(len(arguments.posonlyargs), "/")
        if arguments.vararg or arguments.kwonlyargs:
            given.append("*" + (self.argument(arguments.vararg, None) if arguments.vararg else ""))
        given += [self.argument(*each) for each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
        if arguments.kwarg:
            given.append("**" + self.argument(arguments.kwarg, None))
        if bound and not any(self.written(each) == "staticmethod" for each in function.decorator_list):
            del given[0]
        result = self.written(function.returns)
        return f"({', '.join(given)})" + (f" -> {result}" if result and function.name != "__init__" else "")

    def sections(self) -> dict[str, dict[str, Name]]:
        """The names by section of the file, in its order. Above the first heading stand the errors."""
        headings = [(number, match[1]) for number, line in enumerate(self.lines, 1)
                    if (match := re.match(r"# ---- (.+?) -+$", line))]  # fmt: skip
        sections: dict[str, dict[str, Name]] = {"Errors": {}, **{title: {} for _, title in headings}}
        for node in self.tree.body:
            title = [title for number, title in [(0, "Errors"), *headings] if number <= node.lineno][-1]
            sections[title].update({name.name: name for name in self.names(node)})
        return {title: names for title, names in sections.items() if names}

    def names(self, node: ast.stmt) -> Iterator[Name]:
        """The public names that a statement of the top level gives."""
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield Name(node.name, node.name + self.signature(node), one_line(ast.get_docstring(node)), {})
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield self.read_class(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not self.written(node.value).startswith(NOT_LISTED):
            yield from self.variables(node)

    def variables(self, node: ast.Assign | ast.AnnAssign, own: bool = False) -> Iterator[Name]:
        """What an assignment names, or (`own`) gives to self: with its type, its value if that is short, and the
        comment on its line."""
        kind = f": {self.written(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            targets, values = [target], [node.value]
            if isinstance(target, ast.Tuple):
                targets = target.elts
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [None] * len(targets)
            for each, given in zip(targets, values, strict=True):
                name = self.written(each)
                if name.startswith("self.") != own or (name := name.removeprefix("self.")).startswith("_"):
                    continue
                value = "" if own else self.written(given)
                code = f"{name}{kind}" + (f" = {value}" if value and len(value) < 60 and value[0] != "_" else "")
                yield Name(name, code, comment_of(self.lines[node.lineno - 1]), {})

    def attributes(self, function: ast.FunctionDef) -> Iterator[Name]:
        """What `__init__` gives to self; what it takes under the same name has the type of that argument."""
        kinds = {each.arg: each.annotation for each in [*function.args.args, *function.args.kwonlyargs]}
        for node in ast.walk(function):
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                for each in self.variables(node, own=True):
                    if each.code == each.name and kinds.get(each.name):
                        each = each._replace(code=f"{each.name}: {self.written(kinds[each.name])}")
                    yield each

    def read_class(self, node: ast.ClassDef) -> Name:
        members: dict[str, Name] = {}
        bases = [base for base in map(self.written, node.bases) if not base.startswith("_")]
        code = f"{node.name}({', '.join(bases)})" if bases else node.name
        for statement in node.body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                members.update({each.name: each for each in self.variables(statement)})
            elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                code = node.name + self.signature(statement, bound=True)
                for each in self.attributes(statement):
                    members.setdefault(each.name, each)
            elif (isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_")
                  and "overload" not in map(self.written, statement.decorator_list)):  # fmt: skip
                members.setdefault(statement.name, self.read_method(statement))
        return Name(node.name, code, one_line(ast.get_docstring(node)), members)

    def read_method(self, function: ast.FunctionDef) -> Name:
        if {self.written(each) for each in function.decorator_list} & {"property", "lazy"}:
            result = self.written(function.returns)
            code = function.name + (f": {result}" if result else "")
        else:
            code = function.name + self.signature(function, bound=True)
        return Name(function.name, code, one_line(ast.get_docstring(function)), {})


def inherited(sections: dict[str, dict[str, Name]], tree: ast.Module) -> dict[str, dict[str, Name]]:
    """The members of each class with those of its bases in this module."""
    classes = {name: each for names in sections.values() for name, each in names.items() if each.members}
    members: dict[str, dict[str, Name]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            taken: dict[str, Name] = {}
            for base in node.bases:
                taken.update(members.get(ast.unparse(base).partition("[")[0], {}))
            own = classes[node.name].members if node.name in classes else {}
            kept = {name: each if each.text or name not in taken else each._replace(text=taken[name].text)
                    for name, each in own.items()}  # fmt: skip
            members[node.name] = {**taken, **kept}
    return members


def complaints(sections: dict[str, dict[str, Name]], members: dict[str, dict[str, Name]]) -> Iterator[str]:
    """What is missing: docstrings of functions, classes and methods; names that are promised."""
    names = {name: each for section in sections.values() for name, each in section.items()}
    for name, each in names.items():
        if ("(" in each.code.partition(" = ")[0] or each.members) and not each.text:
            yield f"{name} has no docstring"
        for member in each.members:
            found = members[name][member]
            if "(" in found.code.partition(" = ")[0].partition(":")[0] and not found.text:
                yield f"{name}.{member} has no docstring"
    for name, promised in PROMISED.items():
        if name not in names:
            yield f"{name} is promised and not there"
        else:
            yield from (f"{name}.{each} is promised and not there" for each in promised.split()
                        if each not in members.get(name, {}))  # fmt: skip


def first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s(?=[A-Z`])", text, maxsplit=1)[0]


def promised_lines(name: Name, members: dict[str, Name]) -> Iterator[str]:
    """A name that is promised, with its members: those that are promised in a line each, the others by name."""
    wanted = PROMISED[name.name].split()
    yield f"* **`{name.code}`** {name.text}"
    yield from (f"  * `{members[each].code}` {members[each].text}".rstrip() for each in wanted)
    if others := [each for each in name.members if each not in wanted]:
        yield f"  * further: {', '.join(f'`{each}`' for each in others)}"


def markdown(sections: dict[str, dict[str, Name]], members: dict[str, dict[str, Name]]) -> str:
    """The reference: what is promised, by section, then the parts, folded, in a line each."""
    lines = []
    for title, names in sections.items():
        if promised := [each for each in names.values() if each.name in PROMISED]:
            lines += ["", f"## {title}", ""]
            lines += [line for each in promised for line in promised_lines(each, members.get(each.name, {}))]
    lines += ["", "<details><summary>The parts, for those who build on them</summary>"]
    for title, names in sections.items():
        if parts := [each for each in names.values() if each.name not in PROMISED]:
            lines += ["", f"{title}:", ""]
            lines += [f"* `{each.code}` {first_sentence(each.text)}".rstrip() for each in parts]
    return HEAD + "\n".join([*lines, "", "</details>"]).strip() + "\n"


def reference() -> tuple[str, list[str]]:
    """The reference in Markdown, and what is missing in the module."""
    reader = Reader((ROOT / "brubeck_lite.py").read_text())
    sections = reader.sections()
    members = inherited(sections, reader.tree)
    missing = list(complaints(sections, members))
    return ("" if any("not there" in each for each in missing) else markdown(sections, members)), missing


def put_help(manual: str) -> str:
    """The manual with what `brubeck_lite --help` prints, 80 columns wide, below that command."""
    command = [sys.executable, "-m", "brubeck_lite", "--help"]
    variables = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    below = re.compile(r"(?<=^\$ brubeck_lite --help\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
    return below.sub(lambda _: done.stdout, manual, count=1)


def main() -> int:
    text, missing = reference()
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    manual = MANUAL.read_text()
    if "--check" in sys.argv:
        if PAGE.read_text() != text or put_help(manual) != manual:
            missing.append("these pages have not this reference, or not this help: run tests/reference.py --write")
            print(missing[-1], file=sys.stderr)
    elif "--write" in sys.argv:
        PAGE.write_text(text)
        MANUAL.write_text(put_help(manual))
    else:
        print(text)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
