"""The families that can be added, by the model_type of their config.json; a new one is a file beside this and a line here."""

from collections.abc import Mapping

from aladin.exporting.encoders.bert_clip import AltClip, ChineseClip
from aladin.exporting.encoders.clip import Clip, MetaClip2
from aladin.exporting.encoders.siglip import Siglip
from aladin.exporting.encoders.tipsv2 import Tipsv2
from aladin.exporting.encoders.towers import Towers

FAMILIES: Mapping[str, type[Towers]] = {
    "altclip": AltClip,
    "chinese_clip": ChineseClip,
    "clip": Clip,
    "metaclip_2": MetaClip2,
    "siglip": Siglip,
    "tipsv2": Tipsv2,
}
