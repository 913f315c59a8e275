"""scikit-learn's random forests without the price of a thread pool for each row: the same numbers, bit for bit.

A forest of 100 trees spends 3 to 5 ms on any small predict, nearly all of it in joblib's dispatch and in validating
the input once a tree. Two ways around it, for finite numeric rows of the right width (anything else goes the
library's own way, so its checks and errors stay):

    walk    up to 16 rows: all trees' nodes in one table, all rows in all trees one level a step   30 us for a row
    loop    more rows, or more nodes than a table is worth: each tree's own compiled predict        300 us

Both compare float32 values with float64 thresholds and add the trees in their order, as the library does, so sums do
not differ in the last bit. That is not believed but tried: before a forest's method is replaced, both ways must equal
the library on rows drawn around the forest's own thresholds, ties included (test_worker_forest).
"""

from __future__ import annotations

from typing import Any, Callable, Optional

_WALK_ROWS = 16  # above, the compiled loop wins: measured at 1,700 to 266,000 nodes
_TABLE_NODES = 20_000  # a table of so many is built at load in about 2 ms
_LATER_NODES = 300_000  # one of so many (12 MB, 45 ms) only when small requests keep coming
_LATER_CALLS = 16
_PROOF_ROWS = 6


class Forest:
    """The mean over a forest's trees. `walk` and `loop` take float32 rows and give (rows, values) float64."""

    def __init__(self, trees: Any) -> None:
        self._trees = trees
        self.nodes = sum(int(tree.node_count) for tree in trees)
        self._calls = 0
        self.tabled = False
        if self.nodes <= _TABLE_NODES:
            self._build()

    def mean(self, rows: Any) -> Any:
        if rows.shape[0] > _WALK_ROWS:
            return self.loop(rows)
        if not self.tabled:
            self._calls += 1
            if self._calls < _LATER_CALLS or self.nodes > _LATER_NODES:
                return self.loop(rows)
            self._build()
        return self.walk(rows)

    def loop(self, rows: Any) -> Any:
        total = self._trees[0].predict(rows).reshape(rows.shape[0], -1).copy()
        for tree in self._trees[1:]:
            total += tree.predict(rows).reshape(rows.shape[0], -1)
        total /= len(self._trees)
        return total

    def walk(self, rows: Any) -> Any:
        import numpy as np

        count = rows.shape[0]
        flat = rows.reshape(-1)
        nodes = self._roots
        if count == 1:
            for _ in range(self._depth):
                nodes = self._next.take(
                    2 * nodes + (flat.take(self._feature.take(nodes)) <= self._threshold.take(nodes))
                )
        else:
            width = rows.shape[1]
            nodes = np.tile(nodes, count)
            start: Any = np.repeat(np.arange(count) * width, len(self._trees))
            for _ in range(self._depth):
                cells = flat.take(start + self._feature.take(nodes))
                nodes = self._next.take(2 * nodes + (cells <= self._threshold.take(nodes)))
        values = self._value.take(nodes, axis=0).reshape(count, len(self._trees), -1)
        # accumulate, not sum: numpy's sum adds pairwise, the library tree after tree.
        return np.add.accumulate(values, axis=1)[:, -1] / len(self._trees)

    def _build(self) -> None:
        """One table of all nodes. A leaf leads to itself, so that every row takes the same number of steps."""
        import numpy as np

        sizes = [int(tree.node_count) for tree in self._trees]
        ends = np.cumsum(sizes)
        self._roots = (ends - sizes).astype(np.intp)
        shift: Any = np.repeat(self._roots, sizes)
        left = np.concatenate([tree.children_left for tree in self._trees])
        right = np.concatenate([tree.children_right for tree in self._trees])
        leaf = left < 0
        own = np.arange(len(left))
        self._next: Any = np.empty(2 * len(left), dtype=np.intp)
        self._next[0::2] = np.where(leaf, own, right + shift)
        self._next[1::2] = np.where(leaf, own, left + shift)
        self._feature = np.where(leaf, 0, np.concatenate([tree.feature for tree in self._trees]))
        self._threshold = np.concatenate([tree.threshold for tree in self._trees])
        self._value = np.concatenate([tree.value.reshape(tree.node_count, -1) for tree in self._trees])
        self._depth = max(int(tree.max_depth) for tree in self._trees)
        self.tabled = True

    def proof_rows(self, width: int) -> Any:
        """Rows whose values lie on and around thresholds of the first trees."""
        import numpy as np

        generator = np.random.RandomState(0)
        rows: Any = np.zeros((_PROOF_ROWS, width))
        for tree in self._trees[:_PROOF_ROWS]:
            inner = np.flatnonzero(tree.children_left >= 0)
            if not len(inner):
                continue
            features, thresholds = tree.feature, tree.threshold
            for row in range(_PROOF_ROWS):
                nodes = inner[generator.randint(0, len(inner), width)]
                rows[row, features[nodes]] = thresholds[nodes] + generator.randint(-1, 2, width) * 1e-3
        return rows


def speed_up(estimator: Any, proven: bool = False) -> bool:
    """Replaces the estimator's predict_proba (classifiers) or predict (regressors) by one that gives the same.

    `proven`: this very forest has passed the proof before, in this environment.
    False, and nothing changed, for anything but a single-output forest of scikit-learn that passes the proof.
    """
    if type(estimator).__module__ != "sklearn.ensemble._forest" or getattr(estimator, "n_outputs_", 0) != 1:
        return False
    trees = [tree.tree_ for tree in getattr(estimator, "estimators_", ())]
    if not trees:
        return False
    name = "predict_proba" if hasattr(estimator, "classes_") else "predict"
    own = getattr(estimator, name, None)
    if own is None:
        return False
    import numpy as np

    forest = Forest(trees)
    if proven:
        setattr(estimator, name, _method(forest, own, int(estimator.n_features_in_), name == "predict"))
        return True
    rows = forest.proof_rows(int(estimator.n_features_in_))
    expected = own(rows).reshape(len(rows), -1)
    narrow = rows.astype(np.float32)
    found = [forest.loop(narrow)]
    if forest.tabled:
        found += [forest.walk(narrow), np.concatenate([forest.walk(narrow[i : i + 1]) for i in range(len(rows))])]
    if not all(np.array_equal(expected, item) for item in found):
        return False
    setattr(estimator, name, _method(forest, own, int(estimator.n_features_in_), name == "predict"))
    return True


def _method(forest: Forest, own: Callable[[Any], Any], width: int, flat: bool) -> Callable[[Any], Any]:
    def predict(X: Any) -> Any:
        rows = _plain(X, width)
        if rows is None:
            return own(X)
        found = forest.mean(rows)
        return found[:, 0] if flat else found

    return predict


def _plain(X: Any, width: int) -> Optional[Any]:
    """The rows as float32 when the library's checks would pass them without a word, else None."""
    import numpy as np

    if type(X) is not np.ndarray or X.ndim != 2 or X.shape[1] != width or not len(X) or X.dtype.kind not in "fiu":
        return None
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(X, dtype=np.float32)
    return rows if np.isfinite(rows).all() else None
