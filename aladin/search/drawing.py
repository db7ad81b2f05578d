"""An explanation as a picture: the photograph with the region of each word, and beside it what each word added."""

from PIL import Image, ImageDraw, ImageFont

from aladin.search.explain import Explanation, Share, by_region

LONGEST = 900  # px of the photograph in the drawing
PANEL = 300  # px, the width of the list of words
LINE = 30  # px, the height of a word in it
MARGIN = 16
SHOWN_WORDS = 20  # in the list; the strongest
# Told apart by lightness too, by most eyes with a colour blindness (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


def drawn(photograph: Image.Image, explanation: Explanation, title: str) -> Image.Image:
    """The upright photograph with the chosen regions, and the words with their contributions; RGB.

    For an image as the query the regions that agree most are lit instead.
    """
    scale = LONGEST / max(photograph.size)
    size = (max(round(photograph.width * scale), 1), max(round(photograph.height * scale), 1))
    picture = photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    words = [share for share in explanation.shares if share.word is not None]
    shown = sorted(words, key=lambda share: -abs(share.contribution))[:SHOWN_WORDS]
    if shown:
        _draw_regions(picture, shown, scale)
    else:
        picture = _lit(picture, explanation, scale)
    height = max(picture.height, (len(shown) + 2) * LINE + MARGIN) + 2 * MARGIN
    sheet = Image.new("RGB", (picture.width + PANEL + 3 * MARGIN, height), "white")
    sheet.paste(picture, (MARGIN, MARGIN))
    _draw_list(ImageDraw.Draw(sheet), picture.width + 2 * MARGIN, shown, explanation, title)
    return sheet


def _draw_regions(picture: Image.Image, shares: list[Share], scale: float) -> None:
    """A frame for each region, with the words that chose it; words that share one stand in its label."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    of_region: dict[int, list[int]] = {}
    for position, share in enumerate(shares):
        of_region.setdefault(share.region, []).append(position)
    for positions in reversed(of_region.values()):  # the strongest on top
        box, colour = shares[positions[0]].box, COLOURS[positions[0] % len(COLOURS)]
        left, top = box.x * scale, box.y * scale
        right, bottom = left + box.width * scale, top + box.height * scale
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=4)
        text = " ".join(_plain(shares[position].word or "") for position in positions)[:60]
        corner = draw.textbbox((left + 6, top + 5), text, font=font)
        draw.rectangle((left, top, corner[2] + 4, corner[3] + 4), fill=colour)
        draw.text((left + 6, top + 5), text, fill=_ink(colour), font=font)


def _lit(picture: Image.Image, explanation: Explanation, scale: float) -> Image.Image:
    """The picture with the regions that added little made dark."""
    sums = by_region(explanation)
    most, least = max(sums.values()), min(sums.values())
    light = Image.new("L", picture.size, 60)
    draw = ImageDraw.Draw(light)
    for share in explanation.shares:
        strength = (sums[share.region] - least) / (most - least) if most > least else 1.0
        box = share.box
        area = (box.x * scale, box.y * scale, (box.x + box.width) * scale - 1, (box.y + box.height) * scale - 1)
        draw.rectangle(area, fill=round(60 + 195 * strength))
    return Image.composite(picture, Image.new("RGB", picture.size, "black"), light)


def _draw_list(draw: ImageDraw.ImageDraw, left: int, shares: list[Share], explanation: Explanation, title: str) -> None:
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    draw.text((left, MARGIN), _plain(title)[:36], fill="#111111", font=font)
    whole = f", {explanation.whole:+.3f} of it as a whole" if explanation.whole else ""
    draw.text((left, MARGIN + LINE - 4), f"score {explanation.score:.4f}{whole}", fill="#555555", font=small)
    longest = max((abs(share.contribution) for share in shares), default=1.0) or 1.0
    for position, share in enumerate(shares):
        top = MARGIN + (position + 2) * LINE
        draw.text((left, top), _plain(share.word or "")[:18], fill="#111111", font=small)
        length = round((PANEL - 190) * abs(share.contribution) / longest)
        colour = COLOURS[position % len(COLOURS)]
        if share.contribution >= 0:
            draw.rectangle((left + 130, top + 2, left + 130 + length, top + 15), fill=colour)
        else:
            draw.rectangle((left + 130, top + 2, left + 130 + length, top + 15), outline=colour, width=2)
        draw.text((left + 138 + length, top), f"{share.contribution:+.3f}", fill="#555555", font=small)


def _ink(colour: str) -> str:
    """Black or white, whichever can be read on the colour."""
    red, green, blue = (int(colour[position : position + 2], 16) for position in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _plain(text: str) -> str:
    """Without characters that would turn or break the line."""
    return "".join(character if character.isprintable() else " " for character in text)
