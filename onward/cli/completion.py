"""`onward completion`: shell completion of commands, options, and the registry's names."""

from ..support.errors import UserError
from .app import COMMANDS, options_of
from .completion_options import SHELLS, CompletionOptions
from .options import completions

# In a list with commas the last word is completed. If nothing fits, the shell completes file names.
BASH = """_onward() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words="" before=""
  case "$COMP_CWORD:${{COMP_WORDS[1]}} $prev" in
    1:*) words="{commands}" ;;
{values}
    *) case "$cur:${{COMP_WORDS[1]}}" in
{options}
    esac ;;
  esac
  if [[ $cur == *,* ]]; then before="${{cur%,*}},"; fi
  COMPREPLY=($(compgen -P "$before" -W "$words" -- "${{cur##*,}}"))
}}
COMP_WORDBREAKS="${{COMP_WORDBREAKS//:/}}"
complete -o default -F _onward onward
"""


def completion(options: CompletionOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.shell is None:
        raise UserError(f"name a shell: onward completion {'|'.join(SHELLS)}.")
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](), end="")
    return 0


def bash() -> str:
    """A function for bash's `complete`."""
    values, options = [], []
    for command in COMMANDS:
        found = completions(options_of(command))
        options.append(f'      -*:{command}) words="--help {" ".join(found)}" ;;')
        for name, value in found.items():
            if value is not None:
                values.append(f'    *:"{command} {name}") words="{" ".join(value.words)}" ;;')
    positional = [f'      *:completion) words="{" ".join(SHELLS)}" ;;']
    return BASH.format(commands=" ".join(COMMANDS), values="\n".join(values), options="\n".join(options + positional))


def zsh() -> str:
    """The same for zsh, which can use bash's functions."""
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{bash()}"


def fish() -> str:
    """One line for each command, option and list of words."""
    lines = ["complete -c onward -n __fish_use_subcommand -f"]
    lines += [f"complete -c onward -n __fish_use_subcommand -f -a {name} -d {_quoted(does)}"
              for name, does in COMMANDS.items()]  # fmt: skip
    for command in COMMANDS:
        here = f"complete -c onward -n '__fish_seen_subcommand_from {command}'"
        for name, value in completions(options_of(command)).items():
            end = "" if value is None else f" -x -a {_quoted(' '.join(value.words))}" if value.words else " -r"
            lines.append(f"{here} -l {name.removeprefix('--')}{end}")
    lines.append(f"complete -c onward -n '__fish_seen_subcommand_from completion' -f -a {_quoted(' '.join(SHELLS))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
