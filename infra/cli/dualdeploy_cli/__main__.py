"""`python -m dualdeploy_cli`, for an environment where the program is not installed."""

from dualdeploy_cli.program import main

if __name__ == "__main__":
    main()
