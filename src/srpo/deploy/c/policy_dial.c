
@ARRAY@
/* log beta, scaled from the range of the dial to [-1, 1]; beyond the range the nearest end counts. */
static float policy_turn(float beta)
{
    const float turn = (logf(beta) - policy_dial[0]) / policy_dial[1];
    return turn < -1.0f ? -1.0f : turn > 1.0f ? 1.0f : turn; /* lets NaN through */
}
