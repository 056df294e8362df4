"""`python -m bnas_deploy` is the command line."""

from bnas_deploy.cli import main

main(prog_name="bnas-deploy")
