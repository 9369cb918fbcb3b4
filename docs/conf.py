"""The site: Sphinx, MyST and furo. `make docs` builds it; nothing is fetched while it is built or read."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

project, author, copyright = "dmpo", "The dmpo developers", "The dmpo developers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "mathml",
    "names",
    "tables",
]
exclude_patterns = ["_build", "_ext"]
templates_path = ["_templates"]

# Markdown
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

# The notebooks are run at every build, and a cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# The reference
autosummary_generate = True
autosummary_ignore_module_all = True
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "ignore-module-all": True,  # what packages re-export is documented where it is defined
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True  # names of other libraries have no page to go to without a network
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|npt|np|scipy|networkx|nx|torch|nn|gymnasium|pettingzoo|sympy|tyro)\..*"),
    ("py:.*", r"(abc|collections|contextlib|dataclasses|fractions|pathlib|types|typing)\..*"),
    ("py:class", r"Axes|Figure|Floats|Integers|LineCollection|Path|Positional|Tensor|UseAppendAction|tuple\[int"),
    ("py:class", r".*\.(Item|M|Number|P|Result)"),  # aliases and type variables
]

# Looks
html_theme = "furo"
html_title = "dmpo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False


def google(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Formulas, which are indented, and sections such as Args.

    Not those of attributes, where napoleon would take the words before a colon for a type.
    """
    for k in reversed(range(1, len(lines) - 1)):
        if not lines[k] and lines[k + 1].startswith("    ") and lines[k - 1] and lines[k - 1][0] not in " *-":
            lines[k:k] = ["", "::"]
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(napoleon_use_ivar=True), app, what, name, obj, options).lines()


def setup(app: Sphinx) -> None:
    """Register it."""
    app.connect("autodoc-process-docstring", google)
