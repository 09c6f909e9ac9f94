"""What the compiled part offers; users import these names from ``qatrack_ext``."""

from os import PathLike as _PathLike
from typing import Optional, Union

PathLike = Union[str, _PathLike[str]]

__version__: str

def _force_panic(while_waiting: bool = False) -> None:
    """Panics inside the boundary, for the test that proves a panic arrives as qatrack_ext.InternalError."""

def settings_json(config: Optional[PathLike] = None) -> str:
    """The node's settings in force, as JSON: from ``config``, else SCP_NODE_CONFIG, else the system's place."""

def toml_to_json(text: str, name: str) -> str:
    """A TOML text as JSON; ``name`` is what an error calls it."""
