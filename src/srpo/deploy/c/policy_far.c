
@ARRAYS@
int policy_far(const float obs[]);

/*
 * Is an observation unlike those of the data? 0: no; 1: not a finite number; 2: a signal outside of the data's range
 * and a margin; 3: too far from the center, as the signals go together (Mahalanobis distance). 0 does not promise that
 * the data covers this observation, nor that the action is good.
 */
int policy_far(const float obs[])
{
    float square = 0.0f;
    int i, j;
    for (i = 0; i < POLICY_OBS; i++)
        if (!(fabsf(obs[i]) <= 3.4028234e38f)) return 1;
    for (i = 0; i < POLICY_OBS; i++)
        if (obs[i] < policy_data_low[i] || obs[i] > policy_data_high[i]) return 2;
    for (i = 0; i < POLICY_OBS; i++) {
        float y = 0.0f;
        for (j = 0; j <= i; j++) y += policy_data_whiten[i * POLICY_OBS + j] * (obs[j] - policy_data_mean[j]);
        square += y * y;
    }
    return square > @LIMIT@ * @LIMIT@ ? 3 : 0;
}
