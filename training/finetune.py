"""The LM stage of a run alone, on as many processes as accelerate launches; `genrec fit` runs the same on one.

accelerate launch -m genrec.training.finetune --config runs/mine/config.yaml
"""

from genrec.training.lm.stage import main

if __name__ == "__main__":
    main()
