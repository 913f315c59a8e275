"""FastAPI on uvicorn (uvloop, httptools): the hand-written server that most teams begin with. It has no batching."""

import os

import models
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

predict = models.load(os.environ["BENCH_MODEL"])
app = FastAPI()


class Rows(BaseModel):
    """The body."""

    inputs: list[list[float]]


@app.post("/predict")
async def answer(rows: Rows) -> dict[str, list]:
    return {"predictions": predict(rows.inputs)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), log_level="warning", access_log=False)
