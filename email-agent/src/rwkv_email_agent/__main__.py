"""`python -m rwkv_email_agent`"""

import sys

from .cli import main

sys.exit(main())
