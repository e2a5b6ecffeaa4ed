"""Tasks: where examples come from."""

from .text import Survey as Survey, Text as Text, blocks as blocks, embedded_text as embedded_text, survey as survey, text_file as text_file
