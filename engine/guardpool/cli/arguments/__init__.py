"""What a command line may say: a file for each command, with its help, its options and how it is started.

`--help` and mistakes are answered from here alone, so nothing heavy is imported: a command's work is in the module of the same
name one folder up, which is imported once the command is to run. Words that both need stand twice, and
`tests/cli/test_help.py` compares them.
"""
