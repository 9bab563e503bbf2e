"""How good outputs are: metrics per row and in total, with intervals, and the requirements on them."""
