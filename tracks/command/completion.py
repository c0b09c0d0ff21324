"""`vandkit completion SHELL`: commands, choices and settings for the Tab key of bash, zsh and fish.

source <(vandkit completion bash)        # in ~/.bashrc; zsh likewise in ~/.zshrc
vandkit completion fish | source         # in ~/.config/fish/config.fish
"""

import sys

from tracks.command.explained import settings_of
from tracks.command.variants import choices

SHELLS = ("bash", "zsh", "fish")
BASH = """_vandkit() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[1]}}"
    COMP_WORDBREAKS="${{COMP_WORDBREAKS//=/}}"
    if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{commands}" -- "$word")); return; fi
    case "$before" in
{cases}
    esac
    compopt -o nospace 2>/dev/null
    [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -F _vandkit vandkit
"""
CASE = '        {command}) COMPREPLY=($(compgen -W "{words}" -- "$word")) ;;'


def words_of(config: str) -> list[str]:
    """What may follow a command: `key=` for each setting, and `group=choice`."""
    chosen = [f"{group}={name}" for group in ("data", "model", "weights", "experiment") for name in choices(group)]
    return [f"{setting.key}=" for setting in settings_of(config)] + chosen + ["--help"]


def script(shell: str) -> str:
    """The completions for one shell."""
    from tracks.cli import DOORS

    known = {name: words_of(door.config) for name, door in DOORS.items() if door.config} | {"completion": list(SHELLS)}
    if shell == "fish":
        lines = [
            f"complete -c vandkit -f -n __fish_use_subcommand -a {name} -d '{door.what}'"
            for name, door in DOORS.items()
        ]
        lines += [
            f"complete -c vandkit -n '__fish_seen_subcommand_from {name}' -a '{' '.join(words)}'"
            for name, words in known.items()
        ]
        return "\n".join(lines)
    cases = "\n".join(CASE.format(command=name, words=" ".join(words)) for name, words in known.items())
    text = BASH.format(commands=" ".join(DOORS), cases=cases)
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + text


def main() -> None:
    """Print the script of the shell named on the command line."""
    if sys.argv[1:2] not in [[shell] for shell in SHELLS]:
        print(
            f"error: expected vandkit completion {'|'.join(SHELLS)}, got {' '.join(sys.argv[1:]) or 'nothing'}",
            file=sys.stderr,
        )
        sys.exit(2)
    print(script(sys.argv[1]))


if __name__ == "__main__":
    main()
