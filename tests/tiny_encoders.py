"""Public encoders of every family as transformers writes them, a few kilobytes each and with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SIZE, PATCH, LIMIT = 32, 8, 20
TEXTS = (
    "",
    "dog",
    "A dog runs on the Beach, happily!",
    "zwei Hunde 狗在海滩上 🐕🏖️",
    " ".join(["the dog and the other dog"] * 12),
)
SPOKEN = [*TEXTS, "a red ball on the green grass", "两只狗在草地上玩球", "ein roter Ball", "İstanbul'da 3 köpek"] * 3
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LIMIT,
}
CLIP_PICTURES = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}


def build_encoder(family: str, folder: Path, seed: int = 0, **vision: Any) -> Path:
    """The folder of an encoder: config.json, model.safetensors, tokenizer and image processor; `vision` changes its tower."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    BUILDERS[family](folder, VISION | vision)
    return folder


def own_model(folder: Path, family: str) -> Any:
    """The encoder as transformers loads it."""
    return getattr(transformers, CLASSES[family]).from_pretrained(folder).eval()


def _save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # else biases are 0 and layer norms 1, and nobody would miss them
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)


def _clip(folder: Path, vision: dict[str, Any]) -> None:
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SPOKEN,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=special,
            initial_alphabet=[*alphabet, *(f"{letter}</w>" for letter in alphabet)],
            end_of_word_suffix="</w>",
        ),
    )
    vocabulary, merges = _parts(backend)
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LIMIT)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessorPil(**CLIP_PICTURES).save_pretrained(folder)
    start, end = (vocabulary[piece] for piece in special)
    text = TEXT | {"vocab_size": len(vocabulary), "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    _save(transformers.CLIPModel(config), folder)


def _metaclip_2(folder: Path, vision: dict[str, Any]) -> None:
    size = _xlm_roberta(folder)
    transformers.CLIPImageProcessorPil(size=CLIP_PICTURES["crop_size"], do_center_crop=False).save_pretrained(folder)
    text = TEXT | {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
    _save(transformers.MetaClip2Model(config), folder)


def _altclip(folder: Path, vision: dict[str, Any]) -> None:
    size = _xlm_roberta(folder)
    transformers.CLIPImageProcessorPil(**CLIP_PICTURES).save_pretrained(folder)
    text = TEXT | {"vocab_size": size, "max_position_embeddings": LIMIT + 2, "project_dim": 40}
    config = transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    _save(transformers.AltCLIPModel(config), folder)


def _chinese_clip(folder: Path, vision: dict[str, Any]) -> None:
    letters = sorted({letter for text in SPOKEN for letter in text.lower() if not letter.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "the", "##s", *letters, *(f"##{one}" for one in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocabulary, model_max_length=LIMIT).save_pretrained(folder)
    transformers.ChineseCLIPImageProcessorPil(**CLIP_PICTURES).save_pretrained(folder)
    text = TEXT | {"vocab_size": len(vocabulary)}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    _save(transformers.ChineseCLIPModel(config), folder)


def _siglip(folder: Path, vision: dict[str, Any]) -> None:
    backend = Tokenizer(models.Unigram())
    punctuation = normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), punctuation])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "</s>"]
    backend.train_from_iterator(
        SPOKEN, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))])
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>", "model_max_length": LIMIT}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    _siglip_towers(folder, vision, backend.get_vocab_size())


def _siglip_2(folder: Path, vision: dict[str, Any]) -> None:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = [f" {word}" for text in SPOKEN for word in text.split()]  # else a piece could be a whole text
    backend.train_from_iterator(words, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False))
    vocabulary, merges = _parts(backend)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")  # as Google's file: it does not lower-case
    backend.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", vocabulary["<eos>"])])
    backend.save(str(folder / "tokenizer.json"))
    added = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    pad = added | {"content": "<pad>", "special": True}  # either form is found in published folders
    names = {"pad_token": pad, "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    flags = {"add_bos_token": False, "add_eos_token": True, "tokenizer_class": "GemmaTokenizer", "model_max_length": LIMIT}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | flags))
    _siglip_towers(folder, vision, len(vocabulary))


def _siglip_towers(folder: Path, vision: dict[str, Any], size: int) -> None:
    transformers.SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    text = TEXT | {"vocab_size": size, "projection_size": 48}
    _save(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)), folder)


def _tipsv2(folder: Path, vision: dict[str, Any]) -> None:
    backend = Tokenizer(models.BPE(byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    spoken = [text.lower() for text in SPOKEN]
    backend.train_from_iterator(spoken, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    vocabulary, merges = _parts(backend)
    transformers.Tipsv2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=LIMIT).save_pretrained(folder)
    pictures = {"do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 2, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    tower = {key: value for key, value in vision.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
    text = TEXT | {"vocab_size": len(vocabulary), "hidden_size": 48}
    _save(transformers.Tipsv2Model(transformers.Tipsv2Config(text_config=text, vision_config=tower)), folder)


def _xlm_roberta(folder: Path) -> int:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        SPOKEN, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    pieces = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
    transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=LIMIT).save_pretrained(folder)
    return len(pieces) + 1  # with <mask>


def _parts(backend: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


BUILDERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "altclip": _altclip,
    "chinese-clip": _chinese_clip,
    "clip": _clip,
    "metaclip-2": _metaclip_2,
    "siglip": _siglip,
    "siglip-2": _siglip_2,
    "tipsv2": _tipsv2,
}
CLASSES = {
    "altclip": "AltCLIPModel",
    "chinese-clip": "ChineseCLIPModel",
    "clip": "CLIPModel",
    "metaclip-2": "MetaClip2Model",
    "siglip": "SiglipModel",
    "siglip-2": "SiglipModel",
    "tipsv2": "Tipsv2Model",
}
