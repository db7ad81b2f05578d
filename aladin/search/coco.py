"""What a search found as COCO's captions JSON."""

from collections.abc import Sequence
from typing import Any

from aladin.search.explain import Explanation
from aladin.search.search import Hit


def hits_as_coco(query: str, hits: Sequence[Hit]) -> dict[str, Any]:
    """The hits of a search as COCO's captions JSON, in their order: each is annotated with the query as its caption.

    What COCO does not know stands beside it: an annotation's rank, score and probability, and the regions of each word where
    the hits were explained, whose boxes are x, y, width and height in px as COCO's are.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for hit in hits:
        image = {"id": hit.id, "file_name": hit.path, "width": hit.width, "height": hit.height}
        images.append(image | ({"frame": hit.frame} if hit.frame else {}))
        annotation = {"id": hit.rank, "image_id": hit.id, "caption": query, "rank": hit.rank, "score": hit.score}
        annotation |= {"probability": hit.probability} if hit.probability is not None else {}
        annotations.append(annotation | ({"regions": _regions(hit.explanation)} if hit.explanation else {}))
    return {"info": {"description": f"found by: {query}"}, "images": images, "annotations": annotations}


def _regions(explanation: Explanation) -> list[dict[str, Any]]:
    return [
        {
            "word": share.word,
            "bbox": [share.box.x, share.box.y, share.box.width, share.box.height],
            "contribution": share.contribution,
        }
        for share in explanation.shares
    ]
