"""What all predictors of rows share: which inputs may be joined in one call, and how."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from .codecs import PLAIN, Style


class Tabular:
    """Base of the predictors whose input is one matrix with a row an item."""

    loader = ""
    features: Optional[int] = None
    batchable = True
    style: Style = PLAIN

    def signature(self, data: Any) -> Any:
        """Same dtype and same trailing shape: what np.concatenate joins without changing a value."""
        if hasattr(data, "tocsr"):
            return "csr", data.dtype.str, data.shape[1]
        if hasattr(data, "dtype"):
            return data.dtype.str, data.shape[1:]
        return None

    def join(self, parts: List[Any]) -> Tuple[Any, List[int]]:
        sizes = [int(part.shape[0]) for part in parts]
        if hasattr(parts[0], "tocsr"):
            from scipy.sparse import vstack

            return vstack(parts, format="csr"), sizes
        import numpy as np

        return np.concatenate(parts), sizes
