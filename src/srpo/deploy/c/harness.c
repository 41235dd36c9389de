/* Calls policy_act for a batch, and times it; compiled beside policy.c and loaded by Python (see ctarget.py). */
#define _POSIX_C_SOURCE 200809L
#include <time.h>

void policy_act(const float obs[], float action[]);
#ifdef POLICY_DIAL
void policy_act_at(const float obs[], float beta, float action[]);
#endif
int policy_obs_size(void);
int policy_act_size(void);

void harness_act(const float *obs, long n, float *action)
{
    const long n_obs = policy_obs_size(), n_act = policy_act_size();
    for (long i = 0; i < n; i++) policy_act(obs + i * n_obs, action + i * n_act);
}

#ifdef POLICY_DIAL
/* Rows of observations, each followed by beta. */
void harness_act_at(const float *rows, long n, float *action)
{
    const long n_obs = policy_obs_size(), n_act = policy_act_size();
    for (long i = 0; i < n; i++, rows += n_obs + 1) policy_act_at(rows, rows[n_obs], action + i * n_act);
}
#endif

/* Nanoseconds of each of `calls` calls with `batch` observations, taken in turn from `n` batches. */
void harness_time(const float *obs, long n, long batch, long calls, float *action, double *nanoseconds)
{
    const long n_obs = policy_obs_size();
    struct timespec start, stop;
    for (long i = 0; i < calls; i++) {
        const float *x = obs + (i % n) * batch * n_obs;
        clock_gettime(CLOCK_MONOTONIC, &start);
        harness_act(x, batch, action);
        clock_gettime(CLOCK_MONOTONIC, &stop);
        nanoseconds[i] = (double)(stop.tv_sec - start.tv_sec) * 1e9 + (double)(stop.tv_nsec - start.tv_nsec);
    }
}
