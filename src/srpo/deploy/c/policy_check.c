/*
 * Does policy.c give on this machine the actions that were recorded when it was exported? Run once on every target:
 *     cc -std=c99 -O2 policy.c policy_check.c -lm -o policy_check && ./policy_check
 * Prints the largest error; exit status 0 if it is at most @TOLERANCE@ of half the range of the action.
 */
#include <math.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C"
#endif
@SIGNATURE@;

@ARRAYS@
int main(void)
{
    float worst = 0.0f, action[@ACT@];
    int i, j;
    for (i = 0; i < @N@; i++) {
        @CALL@;
        for (j = 0; j < @ACT@; j++) {
            const float error = fabsf(action[j] - expected[i * @ACT@ + j]) / half[j];
            if (!(error <= worst) && worst == worst) worst = error; /* NaN is an error, too, and stays */
        }
    }
    printf("largest error over @N@ observations: %.3g\n", (double)worst);
    return worst <= @TOLERANCE@ ? 0 : 1;
}
