"""Serves a classifier over HTTP with FastAPI.

    pip install fastapi uvicorn
    MODEL=artifacts/b0/b0.fp32.onnx uvicorn --app-dir examples serve_fastapi:app
    curl --data-binary @photo.jpg 'localhost:8000/classify?top=3'

One image per request. For batching, several models and metrics use `make triton`.
"""

import os
from typing import Any, Dict, List

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from runtime import Classifier
from runtime.errors import UserError

LIMIT = 32 << 20  # bytes of a request

app = FastAPI()
classify = Classifier(os.environ["MODEL"])


@app.post("/classify")
async def classified(request: Request, top: int = 5) -> List[Dict[str, Any]]:
    """The body is an encoded image (JPEG, PNG, ...); the answer is its most likely classes, best first."""
    image = b""
    async for part in request.stream():
        image += part
        if len(image) > LIMIT:
            raise HTTPException(413, f"The image is larger than {LIMIT >> 20} MB.")
    try:  # in a thread, so that other requests are not kept waiting
        predictions = await run_in_threadpool(classify, image, top)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    return [prediction._asdict() for prediction in predictions]
