"""Every class and enumeration has one definition: two of one qualified name in two sources that are linked together are
undefined behaviour, of which neither compiler nor linker speaks.

    one_definition_test.py FOLDER"""
import collections
import pathlib
import re
import sys

# Comments and literals, in which braces are none. 1'000 is a number.
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<!\w)\'(?:\\.|[^\'\\\n])+\'', re.S)
NAMESPACE = re.compile(r"\bnamespace\s*([\w:]*)$")
TYPE = re.compile(r"\b(?:class|struct|union|enum(?:\s+class|\s+struct)?)\s+(?:\[\[.*?\]\]\s*)?([\w:]+)\s*(?:final\s*)?(?::[^:].*)?$", re.S)


def definitions_in(text):
    """Qualified names of types that are defined where other sources could name them: not in functions, nor in a namespace
    without a name."""
    text = re.sub(r"^\s*#[^\n]*(?:\\\n[^\n]*)*", "", NOT_CODE.sub('""', text), flags=re.M)
    scopes = []  # a name for each open brace; None: what is in it has no linkage
    start = 0
    for brace in re.finditer(r"[{};]", text):
        if brace[0] == "{":
            head = re.sub(r"\btemplate\s*<[^{};]*?>\s*(?=class|struct|union)", "", text[start:brace.start()]).strip()
            named = NAMESPACE.search(head) or TYPE.search(head)
            name = named[1] if named and named[1] else None
            scopes.append(name)
            if named and named.re is TYPE and None not in scopes:
                yield "::".join(scopes)
        elif brace[0] == "}":
            scopes.pop()
        start = brace.end()
    assert not scopes, f"braces that do not close: {scopes}"


root = pathlib.Path(sys.argv[1])
places = collections.defaultdict(list)
for folder in "include", "src", "tests":
    for path in sorted((root / folder).rglob("*.[ch]pp")):
        for name in definitions_in(path.read_text()):
            places[name].append(path.relative_to(root))
assert len(places) > 100, places
# Tests are programs of their own, and are linked with sources, not with each other.
faults = [f"{name} is defined in {' and '.join(map(str, paths))}" for name, paths in places.items()
          if len(paths) > 1 and any(path.parts[0] != "tests" for path in paths)]
sys.exit("\n".join(faults) or 0)
