"""Encoders that were added: what their folders may say, what goes into their graphs, and what search gets from them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from aladin.config import from_table, to_table
from aladin.encoder.composition import composed
from aladin.encoder.config import EncoderConfig, HeadsConfig, ModelConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.encoder.pooling import POOLINGS
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError, ModelError
from aladin.pictures.boxes import Box
from aladin.search.alignment import alignment_scores, token_similarity
from tests.encoder.test_encoder import solid
from tests.tiny_model import DIM, GRID, LIMIT, TOKEN_DIM, build_tiny_encoder

SENTENCES = ["a small brown dog", "dogs don't  run", "naïve café 写真を見る", "🐕🐕 and 👩‍👩‍👧‍👦", "", "x"]
SHARES = [0.0, 0.3, 1.0]


@pytest.fixture(params=SHARES, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return build_tiny_encoder(tmp_path / "model", request.param)


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE as CLIP's: lower case, each piece of a word's end with a mark of it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|end|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(r"\s+", "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|start|>", "<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["a small brown dog", "dogs run", "a café"] * 20, trainer)
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def spaces_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE as Gemma's: the space before a word is a part of its pieces, what it does not know is bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["a small brown dog", "dogs run", "an apple"] * 20, trainer)
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    path = tmp_path_factory.mktemp("spaces") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


AS_CLIP = Preprocessing(first_piece="<|start|>", last_piece="<|end|>", caption_pieces=12)
AS_SIGLIP = Preprocessing(
    first_piece="", last_piece="<eos>", caption_pieces=16, lower_case=True, pad_to=16, pad_piece="<pad>"
)  # fmt: skip


def test_a_model_of_aladins_own_writes_no_table_of_an_encoder() -> None:
    table = to_table(ModelConfig())
    assert "encoder" not in table
    assert table["preprocessing"].keys().isdisjoint({"exact", "lower_case", "pad_to", "pad_piece"})


def test_the_tables_of_an_encoder_are_read_back_as_they_were_written() -> None:
    encoder = EncoderConfig("siglip", 768, 0.2, 112.0, -16.5, True)
    config = ModelConfig(preprocessing=dataclasses.replace(AS_SIGLIP, fit="crop", exact=True), encoder=encoder)
    assert from_table(ModelConfig, to_table(config)) == config


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"encoder": {"family": "clip"}}, "family is 'clip' and dim 0; expected both, or neither of them"),
        ({"encoder": {"dim": 512}}, "family is '' and dim 512; expected both, or neither of them"),
        ({"encoder": {"family": "clip", "dim": 8, "share": 1.1}}, r"share is 1\.1; expected 0 to 1"),
        ({"encoder": {"family": "clip", "dim": 8}, "heads": {"pooling": "MrSw"}}, 'set pooling to "MrAVGw"'),
        ({"encoder": {"family": "clip", "dim": 8}, "heads": {"global_dim": 8}}, "leave out others"),
    ],
)
def test_what_no_encoder_can_be_is_refused(table: dict[str, dict[str, object]], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        from_table(ModelConfig, table)


def test_an_encoders_vectors_have_its_own_size() -> None:
    assert ModelConfig(heads=HeadsConfig(token_dim=64), encoder=EncoderConfig("clip", 512)).vector_dim == 512


def test_vectors_are_the_encoders_own_and_tokens_have_length_one(folder: Path) -> None:
    encoder = Encoder.load(folder, threads=1)
    texts, images = encoder.encode_texts(["red and blue", "pink"]), encoder.encode_images(solid("red", "pink"))
    assert texts.vectors.shape == images.vectors.shape == (2, DIM)
    assert texts.words.shape == (2, 3, TOKEN_DIM + DIM)
    regions = composed(images.regions, images.vectors, encoder.model.config.encoder)
    assert (images.regions.shape, regions.shape) == ((2, GRID**2, TOKEN_DIM), (2, GRID**2, TOKEN_DIM + DIM))
    assert texts.word_mask.tolist() == [[True, True, True], [True, False, False]]
    for rows in (texts.words[texts.word_mask], images.regions, regions):
        assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)


def test_a_score_is_the_share_of_alignment_and_the_rest_of_the_cosine(folder: Path, tmp_path: Path) -> None:
    encoder, plain = Encoder.load(folder, threads=1), Encoder.load(build_tiny_encoder(tmp_path / "regions", 1.0), threads=1)
    ours, images = encoder.model.config.encoder, encoder.encode_images(solid("red", "pink", "blue"))
    said, mask = encoder.encode_texts(["red and pink"]), np.ones(images.regions.shape[:2], bool)
    own = plain.encode_texts(["red and pink"]).words[0, :, :TOKEN_DIM]
    regions = composed(images.regions, images.vectors, ours)
    scores = alignment_scores(token_similarity(regions, said.words[0]), mask, POOLINGS["MrAVGw"])
    alignment = alignment_scores(token_similarity(images.regions, own), mask, POOLINGS["MrAVGw"])
    cosine = images.vectors @ said.vectors[0]
    assert_allclose(scores, ours.share * alignment + (1 - ours.share) * cosine, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 20), words=st.integers(1, 12), dim=st.integers(1, 40))
def test_without_a_share_of_regions_the_score_is_the_cosine_of_the_vectors(
    seed: int, images: int, words: int, dim: int
) -> None:
    random, plain = np.random.default_rng(seed), EncoderConfig("clip", dim)
    vectors, (text,) = (random.normal(size=(n, dim)).astype(np.float32) for n in (images, 1))
    regions, said = (random.normal(size=(n, count, 5)).astype(np.float32) for n, count in ((images, 4), (1, words)))
    similarity = token_similarity(composed(regions, vectors, plain), composed(said, text[None], plain)[0])
    scores = alignment_scores(similarity, np.ones((images, 4), bool), POOLINGS["MrAVGw"])
    cosine = vectors @ text
    assert_allclose(scores, cosine, rtol=1e-5, atol=1e-5)
    apart = np.abs(cosine[:, None] - cosine) > 1e-4
    assert_array_equal(np.sign(scores[:, None] - scores)[apart], np.sign(cosine[:, None] - cosine)[apart])


def test_another_share_of_regions_is_no_other_model_for_a_collection(tmp_path: Path) -> None:
    one, other = (ModelFolder.open(build_tiny_encoder(tmp_path / str(share), share)) for share in (0.0, 0.4))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("line", ['pad_to = 12\npad_piece = "[PAD]"', 'fit = "crop"', "lower_case = true", 'last_piece = ""'])
def test_whatever_changes_what_an_encoder_gives_makes_another_model(tmp_path: Path, line: str) -> None:
    one, other = (ModelFolder.open(build_tiny_encoder(tmp_path / name, 0.3, lines)) for name, lines in (("a", ""), ("b", line)))
    assert one.fingerprint != other.fingerprint


def test_another_family_is_another_model(tmp_path: Path) -> None:
    folder = build_tiny_encoder(tmp_path / "model", 0.3)
    before = ModelFolder.open(folder).fingerprint
    (folder / "model.toml").write_text((folder / "model.toml").read_text().replace('"clip"', '"siglip"'))
    assert ModelFolder.open(folder).fingerprint != before


@pytest.mark.parametrize("padded", [False, True])
def test_a_graph_without_a_mask_is_given_pieces_alone(tmp_path: Path, padded: bool) -> None:
    lines = f'pad_to = {LIMIT}\npad_piece = "[PAD]"' if padded else ""
    with_mask, without = (
        Encoder.load(build_tiny_encoder(tmp_path / str(masked), 0.5, lines if not masked else "", masked=masked), threads=1)
        for masked in (True, False)
    )
    texts = ["red pictures", "", "blue", "red " * (LIMIT - 2), "red " * LIMIT]
    expected, found = with_mask.encode_texts(texts), without.encode_texts(texts)
    assert_array_equal(found.word_mask, expected.word_mask)
    assert found.truncated == expected.truncated == (False, False, False, False, True)
    real = expected.word_mask
    assert_allclose(found.words[real][:, :TOKEN_DIM], expected.words[real][:, :TOKEN_DIM], atol=1e-6)


def test_a_text_without_pieces_has_a_vector_and_no_words(folder: Path) -> None:
    encoded = Encoder.load(folder, threads=1).encode_texts(["", "  "])
    assert encoded.word_mask.tolist() == [[False], [False]]
    assert np.isfinite(encoded.vectors).all()


def test_a_graph_of_a_model_of_aladins_own_may_not_do_without_the_mask(tmp_path: Path) -> None:
    folder = build_tiny_encoder(tmp_path / "model", 0.5, masked=False)
    settings = folder / "model.toml"
    settings.write_text(settings.read_text().split("[preprocessing]")[0])
    with pytest.raises(ModelError, match="disagrees with this version on mask"):
        Encoder.load(folder).encode_texts(["red"])


@pytest.mark.parametrize("text", SENTENCES)
def test_words_as_typed_have_all_pieces_of_a_bytes_tokenizer(bytes_tokenizer: Path, text: str) -> None:
    check_typed_words(WordPieces.of(bytes_tokenizer, dataclasses.replace(AS_CLIP, caption_pieces=200)), text)


@pytest.mark.parametrize("text", SENTENCES)
def test_words_as_typed_have_all_pieces_of_a_tokenizer_with_spaces_in_them(spaces_tokenizer: Path, text: str) -> None:
    long = dataclasses.replace(AS_SIGLIP, caption_pieces=200, pad_to=200)
    check_typed_words(WordPieces.of(spaces_tokenizer, long), text)


def check_typed_words(pieces: WordPieces, text: str) -> None:
    """Each word has a piece, each piece is in one word, and both are in order."""
    typed = pieces.typed_words(text)
    assert [word.text for word in typed] == text.split()
    assert [piece for word in typed for piece in word.pieces] == list(range(int(pieces.encode([text]).words_in_each[0])))


def test_a_word_has_its_own_pieces_and_not_those_of_the_word_before(spaces_tokenizer: Path) -> None:
    pieces = WordPieces.of(spaces_tokenizer, AS_SIGLIP)
    said = pieces.encode(["brown dog"]).words[0]
    spelled = {word.text: "".join(said[piece] for piece in word.pieces) for word in pieces.typed_words("brown dog")}
    assert {word: letters.strip("▁") for word, letters in spelled.items()} == {"brown": "brown", "dog": "dog"}


@pytest.mark.parametrize("text", ["A Small DOG", "İSTANBUL", "ÄÖÜ ẞ"])
def test_lower_case_is_as_the_tokenizers_own(spaces_tokenizer: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(spaces_tokenizer))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])  # as Siglip2Tokenizer
    expected = tokenizer.encode(text, add_special_tokens=False).ids[:15]
    pieces = WordPieces.of(spaces_tokenizer, AS_SIGLIP).encode([text])
    assert pieces.ids[0, : len(expected)].tolist() == expected


@pytest.mark.parametrize(("letters", "truncated"), [(0, False), (1, False), (15, False), (16, True), (40, True)])
def test_texts_are_filled_up_to_their_one_length_and_keep_the_last_piece(
    spaces_tokenizer: Path, letters: int, truncated: bool
) -> None:
    pieces = WordPieces.of(spaces_tokenizer, AS_SIGLIP).encode(["q" * letters])
    tokenizer = Tokenizer.from_file(str(spaces_tokenizer))
    pad, last = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("<eos>")
    real = min(letters, 15) + 1
    assert pieces.ids.shape == (1, 16)
    assert pieces.ids[0, real - 1] == last
    assert (pieces.ids[0, real:] == pad).all()
    assert pieces.mask[0].tolist() == [True] * real + [False] * (16 - real)
    assert pieces.truncated == (truncated,)


def test_the_regions_of_a_cropped_picture_are_cells_of_what_is_seen() -> None:
    config = ModelConfig(preprocessing=Preprocessing(224, fit="crop"))
    boxes = config.region_boxes(Box(0, 0, 640, 480))
    assert (boxes[0].x, boxes[0].y) == (79, 0)  # of 298 px 37 are left out on its left
    assert (boxes[-1].x + boxes[-1].width, boxes[-1].y + boxes[-1].height) == (561, 480)
    assert len(boxes) == 49


def test_the_regions_of_a_squashed_picture_are_cells_of_all_of_it() -> None:
    picture = Box(3, 4, 640, 480)
    assert ModelConfig().region_boxes(picture) == picture.cells(7)
