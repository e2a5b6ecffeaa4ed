"""Builds the site: `python -m docs.site` writes `build/site`, one folder that needs nothing else."""

import argparse
import shutil
import sys

from sphinx.cmd.build import build_main

from .api import write_api
from .check import mend_source_links, problems
from .stage import ROOT, stage

SOURCE, SITE = ROOT / "build" / "site-source", ROOT / "build" / "site"


def main() -> int:
    """Returns the exit code: 0 if there was no warning and the site has no broken link."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.parse_args()
    for folder in (SOURCE, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    stage(SOURCE)
    write_api(SOURCE / "api")
    options = ["-b", "html", "-c", str(ROOT / "docs"), "-W", "--keep-going", "-q", "-j", "2"]
    code = build_main([*options, "-d", str(ROOT / "build" / "site-doctrees"), str(SOURCE), str(SITE)])
    mend_source_links(SITE)
    found = problems(SITE)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"The site is in {SITE.relative_to(ROOT)}: open {SITE.relative_to(ROOT)}/index.html")
    return code or bool(found)


if __name__ == "__main__":
    sys.exit(main())
