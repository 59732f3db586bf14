#!/usr/bin/env python3
"""Prints circles of `use` between modules of each crate, and exits with 1 if there are any.

Modules are compared with their siblings: whatever is below a module counts as part of it, and what a
module and those above it use of each other does not count. Test modules are left out.
Usage: tools/import_circles.py [CRATE_DIR ...]; by default all crates of the workspace.
"""

import re
import sys
from pathlib import Path

ITEM = r"(?:crate|self|super)(?:::\s*(?:\w+|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\*))+"


def paths(text):
    """All paths that a tree of imports stands for, as lists of names."""
    head, brace, rest = text.partition("{")
    names = [name for name in re.split(r"\s*::\s*", head.strip()) if name]
    if not brace:
        return [[name.split(" as ")[0].strip() for name in names]]
    depth, parts = 0, [""]
    for c in rest.rstrip()[:-1]:
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [names + path for part in parts if part.strip() for path in paths(part)]


def modules(src):
    """Module path -> source without comments and tests."""
    found = {}
    for file in sorted(src.rglob("*.rs")):
        name = file.relative_to(src).with_suffix("").parts
        name = name[:-1] if name[-1] in ("mod", "lib", "main") else name
        text = re.sub(r"//[^\n]*", "", file.read_text())
        found[name] = found.get(name, "") + re.split(r"#\[cfg\(test\)\]\s*(?:pub(?:\(\w+\))? )?mod \w+ \{", text)[0]
    return found


def resolved(path, at, known, exports):
    """The module that holds what `path` names in the module `at`."""
    base = () if path[0] == "crate" else at
    for i, name in enumerate(path):
        if name == "super":
            base = base[:-1]
        elif name not in ("crate", "self"):
            rest, found = path[i:], base
            while rest and found + (rest[0],) in known:
                found, rest = found + (rest[0],), rest[1:]
            return exports.get((found, rest[0]), found) if rest else found
    return base


def edges(src):
    """Pairs of sibling modules of which the first uses the second."""
    known, exports, found = modules(src), {}, set()
    for at, text in known.items():
        for use in re.findall(r"\bpub use ([^;]+);", text):
            for path in paths(use):
                path = path if path[0] in ("crate", "self", "super") else ["self", *path]
                exports[at, path[-1]] = resolved(path[:-1], at, known, {})
    for at, text in known.items():
        for item in re.findall(ITEM, text):
            for path in paths(item):
                to = resolved(path, at, known, exports)
                common = next((i for i, (a, b) in enumerate(zip(at, to)) if a != b), min(len(at), len(to)))
                if common < min(len(at), len(to)):
                    found.add((at[: common + 1], to[: common + 1]))
    return found


def circles(pairs):
    """The sets of modules that use each other, over however many steps."""
    reach = {a: {b for x, b in pairs if x == a} for a, _ in pairs}
    for _ in reach:
        for a in reach:
            reach[a] |= {c for b in reach[a] for c in reach.get(b, ())}
    return sorted({tuple(sorted(b for b in reach[a] if a in reach.get(b, ()))) for a in reach} - {()})


def main():
    crates = [Path(arg) for arg in sys.argv[1:]] or sorted(toml.parent for depth in ("", "*/", "*/*/") for toml in Path().glob(depth + "Cargo.toml"))
    bad = [(crate, circle) for crate in crates for circle in circles(edges(crate / "src"))]
    for crate, circle in bad:
        print(f"{crate}: a circle of imports: {', '.join('::'.join(module) for module in circle)}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
