"""`python -m tfr_pipeline`."""

from tfr_pipeline.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
