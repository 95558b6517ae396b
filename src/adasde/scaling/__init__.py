"""Tools for practitioners: the rules, and what applies them to a recipe, an optimizer or a loss."""
