"""What the compiled part offers; users import these names from ``qatrack_ext``."""

__version__: str

def _force_panic(while_waiting: bool = False) -> None:
    """Panics inside the boundary, for the test that proves a panic arrives as qatrack_ext.InternalError."""
