"""Holds the man pages to --help: each option that a program has is in its page, and man has nothing to say against it.

    manual_test.py PAGES PROGRAM..."""
import pathlib
import re
import shutil
import subprocess
import sys

pages, *programs = sys.argv[1:]
for program in map(pathlib.Path, programs):
    page = pathlib.Path(pages) / f"{program.name}.1"
    text = page.read_text()
    help_text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    options = set(re.findall(r"^ {2,6}(?:-\w, )?(--[a-z0-9-]+)", help_text, re.M))
    in_page = {tag.replace("\\", "") for tag in re.findall(r"^(?:\\fB\\-\w\\fR, )?\\fB(\\-\\-[a-z0-9\\-]+)\\fR", text, re.M)}
    assert len(options) > 2 and options == in_page, f"{page}: {options ^ in_page}"
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS|SS", '"EXIT STATUS"', '"SEE ALSO"'):
        assert re.search(rf"^\.(SH )?({section})", text, re.M), f"{page} has no {section}"
    if shutil.which("man"):
        shown = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", page], check=True, capture_output=True, text=True)
        assert not shown.stderr and max(map(len, shown.stdout.splitlines())) < 100, f"{page}: {shown.stderr}"
print(f"{len(programs)} pages are as --help says")
