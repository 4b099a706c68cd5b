"""What Python's servers read: one JSON line in, one out.

A form goes through Starlette, as in vLLM and SGLang; a path through what uvicorn does to it; a body through `json.loads`.
"""

import asyncio
import base64
import json
import sys
from urllib.parse import unquote

from starlette.requests import Request


async def form_model(content_type: str, body: bytes):
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", content_type.encode("latin-1"))]}

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    form = await Request(scope, receive).form()
    model = form.get("model")
    return {"model": model if isinstance(model, str) else None}


def json_model(body: bytes):
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("no object")
    return {"model": document.get("model")}


def answer(question):
    if "path" in question:
        return {"path": unquote(question["path"])}
    body = base64.b64decode(question["body"])
    try:
        if "type" in question:
            return asyncio.run(form_model(question["type"], body))
        return json_model(body)
    except Exception as error:  # Whatever it is, the engine answers 400.
        return {"error": repr(error)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
