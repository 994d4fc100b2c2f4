"""Uses every part of the client against the server at argv[1]; client_matrix.py runs it everywhere."""

from __future__ import annotations

import asyncio
import pickle
import sys
from importlib.metadata import version

import numpy as np

from saliency_client import AsyncSaliencyClient, InvalidArgument, ModelNotFound, SaliencyClient

IMAGES = np.zeros((5, 6, 5, 3), np.uint8)


def check(target: str) -> None:
    with SaliencyClient(target, model="linear", timeout=20) as client:
        client.wait_ready(20)
        assert client.methods() == ("gradients", "smooth")
        assert client.status()[0].available
        assert client.predict(IMAGES)["logits"].shape == (5, 4)
        explanation = client.explain(IMAGES, method="smooth", class_index=2, outputs="all")
        assert explanation.gradients.shape == (5, 6, 5, 3)
        assert list(explanation.label) == ["class 2"] * 5
        np.testing.assert_allclose(explanation.saliency, np.abs(explanation.gradients).max(-1), rtol=1e-5)
        results = list(client.explain_many(IMAGES, batch_size=2, class_index=[0, 1, 99, 3, 0]))
        assert [result.index for result in results if result.error] == [2]
        error = pickle.loads(pickle.dumps(results[2].error))
        assert isinstance(error, InvalidArgument)
        assert "class_index 99" in error.details
    with SaliencyClient(target, model="nobody", timeout=20) as client:
        try:
            client.explain(IMAGES)
        except ModelNotFound:
            pass
        else:
            raise AssertionError("an unknown model was found")


async def check_async(target: str) -> None:
    async with AsyncSaliencyClient(target, model="linear", timeout=20) as client:
        assert (await client.explain(IMAGES)).saliency.shape == (5, 6, 5)
        assert len([result async for result in client.explain_many(IMAGES, batch_size=2)]) == 5


if __name__ == "__main__":
    check(sys.argv[1])
    asyncio.run(check_async(sys.argv[1]))
    assert "tensorflow" not in sys.modules
    print(*(version(name) for name in ("protobuf", "grpcio", "numpy")))
