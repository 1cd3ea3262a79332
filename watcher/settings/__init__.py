"""The settings: what there is, where values come from, and what is made of them."""
