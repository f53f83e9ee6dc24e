"""The command line as people meet it: real commands, their exit codes and what they say."""
