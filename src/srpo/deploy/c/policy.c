/*
 * A policy of @OBS@ observations and @ACT@ actions, written by `srpo export`. Do not edit: export again.
 * Nothing here but numbers: what it was trained on is in the contract beside this file.
 *
 * void policy_act(const float obs[@OBS@], float action[@ACT@]);
 *     Normalization, squashing and action bounds are inside. No allocation, no state: safe to call from several
 *     threads. The time hardly depends on the numbers. NaN in any observation gives NaN actions; infinity may, and so
 *     may numbers so large that float overflows; other absurd ones give some action within bounds: check them first
 *     (policy_far, where it is present).
@ABOUT_DIAL@ *
 * C99, or C++; link with -lm. -O3 -march=native is fastest. Do not use -ffast-math: it removes checks for NaN.
 * Two policies in one program: compile each with its own -Dpolicy_act=name (and the other names).
 */
#include <math.h>

#define POLICY_OBS @OBS@
#define POLICY_ACT @ACT@

#ifdef __cplusplus
#define POLICY_RESTRICT __restrict
extern "C" {
#else
#define POLICY_RESTRICT restrict
#endif

#if defined(__GNUC__)
#define POLICY_ALIGN __attribute__((aligned(64)))
#elif defined(_MSC_VER)
#define POLICY_ALIGN __declspec(align(64))
#else
#define POLICY_ALIGN
#endif

int policy_obs_size(void);
int policy_act_size(void);
void policy_act(const float obs[], float action[]);
@DECLARED@
@ARRAYS@
/* y = bias + x weight, N outputs at a time; the weights of N outputs lie together, input after input. */
#define POLICY_DENSE(N)                                                                             \
    static void policy_dense##N(const float *POLICY_RESTRICT w, const float *POLICY_RESTRICT bias,  \
                                int n_in, int n_out, const float *POLICY_RESTRICT x,                \
                                float *POLICY_RESTRICT y)                                           \
    {                                                                                               \
        int i, j, k;                                                                                \
        for (j = 0; j < n_out; j += N) {                                                            \
            float sum[N];                                                                           \
            for (k = 0; k < N; k++) sum[k] = bias[j + k];                                           \
            for (i = 0; i < n_in; i++, w += N) {                                                    \
                const float xi = x[i];                                                              \
                for (k = 0; k < N; k++) sum[k] += xi * w[k];                                        \
            }                                                                                       \
            for (k = 0; k < N; k++) y[j + k] = sum[k];                                              \
        }                                                                                           \
    }

@FUNCTIONS@
int policy_obs_size(void) { return POLICY_OBS; }
int policy_act_size(void) { return POLICY_ACT; }

@SIGNATURE@
{
    POLICY_ALIGN float a[@WIDTH@], b[@WIDTH@];
    const float *out;
    int i;
@STEPS@
    for (i = 0; i < POLICY_ACT; i++) {
        float y = @SQUASH@;
        y = @BOUND@;
        y = y < policy_low[i] ? policy_low[i] : y;
        action[i] = y > policy_high[i] ? policy_high[i] : y;
    }
}
@AT_DEFAULT@@FAR@
#ifdef __cplusplus
}
#endif
