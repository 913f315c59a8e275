"""Makes the files of this folder: `python make.py iris.csv`, in an environment with torch.

`iris.csv` has the rows of scikit-learn's `load_iris`, label last. The files in the repository are what this wrote once;
torch's archives hold no time, so the same torch writes them again.
"""

import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Iris(torch.nn.Module):
    """Measurements of a flower (n, 4) to the probabilities of its three species (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(4, 16)
        self.out = torch.nn.Linear(16, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.out(torch.relu(self.hidden(rows))), 1)


def main(csv: str) -> None:
    table = torch.tensor([[float(word) for word in line.split(",")] for line in Path(csv).read_text().splitlines()])
    rows, labels = table[:, :4], table[:, 4].long()
    torch.manual_seed(0)
    model = Iris()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(torch.log(model(rows)), labels).backward()
        optimizer.step()
    model.eval()
    torch.jit.script(model).save(str(HERE / "model.pt"))
    torch.save(model.state_dict(), HERE / "state.pth")
    asked = rows[::10]
    with torch.no_grad():
        answers = model(asked)
        right = int((model(rows).argmax(1) == labels).sum())
    told = {"torch": torch.__version__, "right": right, "rows": asked.tolist(), "answers": answers.tolist()}
    (HERE / "expected.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
