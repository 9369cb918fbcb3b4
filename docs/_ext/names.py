"""Names of the code in backticks become links to the reference: `ppo.lambda_return`, `dmpo_deep/ppo.py`."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

PACKAGES = ("", "dmpo_deep.", "dmpo_theory.")


class LinkNames(SphinxPostTransform):
    """Where the reference has the name, in full or below one of the packages."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Replace literals by references."""
        known = self.env.domains.python_domain.objects
        here = self.env.current_document.docname
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            name = text.removesuffix(".py").replace("/", ".")
            if "." not in text or isinstance(literal.parent, nodes.reference | addnodes.pending_xref | nodes.title):
                continue
            found = next((known[package + name] for package in PACKAGES if package + name in known), None)
            if found is not None and found.docname != here:
                link = make_refnode(self.app.builder, here, found.docname, found.node_id, literal.deepcopy(), name)
                literal.replace_self(link)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
