"""Settings of Sphinx. `make docs` runs generate.py, then builds the site with warnings as errors, without a network."""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml

HERE = Path(__file__).parent

project = "adasde"
author = "the adasde developers"
copyright = author  # noqa: A001, since Sphinx wants this name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generated/part-*"]  # the parts are included by pages

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = json.loads((HERE / "generated/numbers.json").read_text())

add_module_names = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
default_role = "literal"  # docstrings write `name`
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "returns_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "adasde"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"**": ["globaltoc.html"]}
html_theme_options = {
    "navbar_center": [],
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
    "use_edit_page_button": False,
    "show_toc_level": 1,
}


def _formula(translator, node):
    """Write a formula as MathML, which browsers render themselves: no JavaScript, no network."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def _plain(_app, _what, _name, _object, _options, lines):
    """Let docstrings write |x| for a norm: in reStructuredText bars would be a substitution."""
    lines[:] = [re.sub(r"(?<!`)\|(?!`)", r"\\|", line) for line in lines]


def setup(app):
    """Register the renderer of formulas and the reading of docstrings."""
    app.add_html_math_renderer("mathml", inline_renderers=(_formula, None), block_renderers=(_formula, None))
    app.connect("autodoc-process-docstring", _plain)
