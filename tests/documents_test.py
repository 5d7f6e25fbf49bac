"""Holds the documents to the tree that they are in: links lead somewhere, files that they name are there, the README is
short.

    documents_test.py FOLDER"""
import pathlib
import re
import sys

# A name that begins like a folder of the tree, without patterns.
PATH = re.compile(r"`((?:src|include|tests|slurm)/[\w./-]+)`")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def prose_of(document):
    """Without blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", document.read_text(), flags=re.M | re.S)


def anchors_of(document):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(document), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults_of(document, root):
    text = prose_of(document)
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if re.match(r"\w+:", link):
            continue
        if not target.exists():
            yield f"links to {link}, which is not there"
        elif anchor and anchor not in anchors_of(target):
            yield f"links to {link}: no such heading"
    for path in PATH.findall(text):  # FOLDER stands for any
        if "FOLDER" not in path and not (root / path).exists():
            yield f"names {path}, which is not there"


root = pathlib.Path(sys.argv[1])
documents = [path for path in root.rglob("*.md")
             if not any(part.startswith((".", "build")) for part in path.relative_to(root).parts)]
faults = [f"{path.relative_to(root)} {fault}" for path in sorted(documents) for fault in faults_of(path, root)]
lines = len((root / "README.md").read_text().splitlines())
if lines > 250:
    faults.append(f"README.md has {lines} lines, more than 250")
assert len(documents) > 10, documents
sys.exit("\n".join(faults) or 0)
