"""Settings of the documentation site. `make docs` lays out the source in `build/site-source` and runs Sphinx there."""

project = "onward"
author = "The onward authors"
copyright = "The onward authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.viewcode", "docs.site.mathml", "docs.site.links"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["**/parts/**"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_allow_space = False

html_theme = "furo"
html_title = "onward"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = True
html_show_search_summary = False  # a page opened from a file may not fetch others

highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "monokai"
add_module_names = False
python_maximum_signature_line_length = 90
viewcode_follow_imported_members = True
