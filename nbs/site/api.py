"API entries (signature, docstring, docments table) read from the source of exported cells; nothing is imported."
import ast
import io
import re
import tokenize

Def = (ast.FunctionDef, ast.AsyncFunctionDef)


def exported(source):
    "The public names an exported cell defines, each with its syntax tree node."
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, (*Def, ast.ClassDef)): found[_full_name(node)] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name): found[target.id] = node
    return {name: node for name, node in found.items() if not re.search(r"(^|\.)_", name)}


def defined(source):
    "All names an exported cell defines, private ones too."
    return [n.name for n in ast.parse(source).body if isinstance(n, (*Def, ast.ClassDef))] or ["constants"]


def _full_name(node):
    "The name of a definition, after its class's if fastcore's `patch` puts it there."
    patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
    return f"{ast.unparse(node.args.args[0].annotation)}.{node.name}" if patched else node.name


class _Comment(str):
    alone = False  # nothing but the comment on its line


def _comments(source):
    "Line number -> the comment on it."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith("#|"): continue
        found[token.start[0]] = comment = _Comment(token.string.lstrip("#").strip())
        comment.alone = token.line.lstrip().startswith("#")
    return found


def _meaning(line, comments):
    "The docment of a parameter: the comment on its line, with the comment lines that continue it."
    if line not in comments: return ""
    words = [comments[line]]
    while getattr(comments.get(line := line + 1), "alone", False): words.append(comments[line])
    return " ".join(words)


def _help(annotation):
    "The `help=` of a typer option or argument."
    calls = [n for n in ast.walk(annotation) if isinstance(n, ast.Call)] if annotation is not None else []
    return next(
        (k.value.value for c in calls for k in c.keywords if k.arg == "help" and isinstance(k.value, ast.Constant)), ""
    )


def _cell(text): return " ".join(text.split()).replace("|", "\\|")


def _code(text): return f"`{_cell(text)}`" if text else ""


def _type(node):
    "An annotation as written, with pydantic's bounds after the type."
    if node is None: return ""
    found, bounds = ast.unparse(node), []
    for part in ast.walk(node):
        if not (
            isinstance(part, ast.Subscript)
            and ast.unparse(part.value) == "Annotated"
            and isinstance(part.slice, ast.Tuple)
        ):
            continue
        inner, *rest = part.slice.elts
        found = found.replace(ast.unparse(part), ast.unparse(inner))
        keywords = [k for call in rest if isinstance(call, ast.Call) for k in call.keywords]
        bounds += [
            f"{sign} {ast.unparse(k.value)}"
            for k in keywords
            if (sign := dict(gt=">", ge="≥", lt="<", le="≤").get(k.arg))
        ]
    return ", ".join([_code(found), *bounds])


def _table(rows, head):
    "A Markdown table without the columns that are empty."
    keep = [i for i in range(len(head)) if i == 0 or any(r[i] for r in rows)]
    def line(cells):
        return "| " + " | ".join(cells[i] for i in keep) + " |"
    return "\n".join([line(head), "|" + "---|"*len(keep), *map(line, rows)])


def _arguments(node):
    "(name as written in a signature, argument node, default) of every argument but self."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(plain) - len(a.defaults)) + list(a.defaults)
    out = [(p.arg, p, d) for p, d in zip(plain, defaults) if p.arg not in ("self", "cls")]
    if a.vararg: out.append((f"*{a.vararg.arg}", a.vararg, None))
    elif a.kwonlyargs: out.append(("*", None, None))
    out += [(p.arg, p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: out.append((f"**{a.kwarg.arg}", a.kwarg, None))
    return out


def _signature(name, node):
    parts = [n + (f"={ast.unparse(d)}" if d is not None else "") for n, _, d in _arguments(node)]
    text = f"{name}({', '.join(parts)})"
    return text if len(text) <= 88 else f"{name}(\n    " + ",\n    ".join(parts) + ",\n)"


def _parameters(node, comments):
    "The docments table of a function."
    arguments = [(n, p, d) for n, p, d in _arguments(node) if p is not None]
    taken, first = {p.lineno for _, p, _ in arguments}, node.body[0].lineno
    rows = [(_code(n), _type(p.annotation), _code(ast.unparse(d)) if d is not None else "",
             _cell(_meaning(p.lineno, comments) or _help(p.annotation))) for n, p, d in arguments]
    end = (
        node.returns.lineno
        if node.returns
        else next(
            (
                i
                for i in range(first - 1, node.lineno, -1)
                if i in comments and i not in taken and not comments[i].alone
            ),
            0,
        )
    )
    returns = _type(node.returns)
    meaning = _cell(_meaning(end, comments)) if end else ""
    if returns or meaning: rows.append(("**returns**", returns, "", meaning))
    return _table(rows, ("Parameter", "Type", "Default", "Meaning")) if any(r[3] for r in rows) or returns else ""


def _fields(node, comments):
    "The table of the fields a dataclass or a pydantic model declares."
    fields = [
        f
        for f in node.body
        if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name) and not f.target.id.startswith("_")
    ]
    rows = [(_code(f.target.id), _type(f.annotation), _code(ast.unparse(f.value)) if f.value is not None else "",
             _cell(_meaning(f.lineno, comments))) for f in fields]
    return _table(rows, ("Field", "Type", "Default", "Meaning")) if rows else ""


def _members(node, comments):
    "The table of the public methods and properties of a class."
    rows = []
    for f in node.body:
        if not isinstance(f, Def) or f.name.startswith("_") or not ast.get_docstring(f): continue
        is_property = any("property" in ast.unparse(d) for d in f.decorator_list)
        arguments = [(n, p) for n, p, _ in _arguments(f) if p is not None]
        details = [
            f"`{n}`: {m}" for n, p in arguments if p.lineno != f.lineno and (m := _cell(_meaning(p.lineno, comments)))
        ]
        call = (
            f.name
            if is_property
            else " ".join(_signature(f.name, f).replace(",\n)", ")").replace("(\n    ", "(").split())
        )
        rows.append(
            (_code(call), _type(f.returns), " ".join([_cell(ast.get_docstring(f))] + ["; ".join(details)]).strip())
        )
    return _table(rows, ("Member", "Returns", "Meaning")) if rows else ""


def label(name, node, module):
    """Where an exported name can be linked to; labels ignore case, so a class and a function of one name must differ in
    more than that."""
    kind = "" if isinstance(node, Def) else "-class" if isinstance(node, ast.ClassDef) else "-constant"
    return f"{module}.{name}{kind}"


def entry(name, node, source, module, level):
    "The API entry of one exported name as Markdown."
    comments = _comments(source)
    target = f"({label(name, node, module)})="
    if not isinstance(node, (*Def, ast.ClassDef)):  # a constant: its value if that is short
        value, note = (
            ast.unparse(node.value) if node.value else "",
            comments.get(node.lineno) or comments.get(node.end_lineno, ""),
        )
        shown = value if len(value) < 80 else {"{": "{...}", "[": "[...]"}.get(value[0], "...")
        return f"{target}\n\n```python\n{name} = {shown}{f'  # {note}' if note else ''}\n```"
    parts = [f"{target}\n{{.api}}\n{'#'*level} {name}"]
    if isinstance(node, Def): call, inner = _signature(name, node), _parameters(node, comments)
    else:
        init = next((f for f in node.body if isinstance(f, Def) and f.name == "__init__"), None)
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        call = _signature(name, init) if init else f"class {name}{bases}"
        inner = "\n\n".join(
            filter(None, [_parameters(init, comments) if init else _fields(node, comments), _members(node, comments)])
        )
    return "\n\n".join(filter(None, [*parts, f"```python\n{call}\n```", ast.get_docstring(node) or "", inner]))
