"""Workers that run one engine each, driven by the comparison scripts."""
