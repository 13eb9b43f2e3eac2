"""Everything that a GPU has to show, in one process of some minutes; `plan` is the list of what is measured."""
