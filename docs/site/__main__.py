"""Builds the site: `python -m docs.site` writes `build/site`, one folder that needs nothing else."""

import argparse
import shutil
import sys

from sphinx.cmd.build import build_main

from .api import write_api
from .check import mend_source_links, problems
from .gallery import name_gallery, write_gallery
from .stage import BUILT, ROOT, stage

SITE = ROOT / "build" / "site"


def main() -> int:
    """Returns the exit code: 0 if there was no warning and the site has no broken link."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--no-gallery", action="store_true", help="leave the examples out, for a quick look")
    options = parser.parse_args()
    for folder in (BUILT, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    stage(BUILT)
    write_api(BUILT / "api")
    found = [] if options.no_gallery else write_gallery(BUILT / "gallery")
    if options.no_gallery:
        name_gallery(BUILT / "gallery")
    settings = ["-b", "html", "-c", str(ROOT / "docs"), "-W", "--keep-going", "-q", "-j", "2"]
    code = build_main([*settings, "-d", str(ROOT / "build" / "site-doctrees"), str(BUILT), str(SITE)])
    mend_source_links(SITE)
    found += problems(SITE)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"The site is in {SITE.relative_to(ROOT)}: open {SITE.relative_to(ROOT)}/index.html")
    return code or bool(found)


if __name__ == "__main__":
    sys.exit(main())
