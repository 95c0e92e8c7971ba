"""How Sphinx builds the documentation site: `make docs`. It reads no network, and the site needs none."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))

project = "nctool"
author = "the nctool authors"
html_title = "nctool"
html_theme = "furo"
html_static_path = ["_site/static"]
html_css_files = ["nctool.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
root_doc = "index"
exclude_patterns = ["_site", "Thumbs.db"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "definitions"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
"""Types in signatures are those of Python, NumPy and torch, whose own pages cannot be asked without a network."""

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "colon_fence"]
default_role = "literal"
"""A name between single back-ticks in a docstring."""

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress and warnings
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
"""Nothing is fetched by a reader's browser."""

autodoc_typehints = "none"  # the docstrings say types and shapes; annotations hold what the command line needs
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "monokai"
