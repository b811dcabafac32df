"""Options of the WebUI's command line, read before it starts."""


def preload(parser):
    parser.add_argument(
        "--asyndm-hide-samplers",
        action="store_true",
        help="leave the AsynDM samplers out of the drop-down; the accordion still takes over "
        "Euler a, Euler, DPM++ 2M and DDIM",
    )
