<?php
// Contender: the page of the classic tutorials. It asks WeChat with curl and says who it is. No session is kept.
$body = json_decode(file_get_contents('php://input'), true);
$query = http_build_query([
    'appid' => $_SERVER['WECHAT_APPID'],
    'secret' => $_SERVER['WECHAT_SECRET'],
    'js_code' => $body['code'],
    'grant_type' => 'authorization_code',
]);
$curl = curl_init($_SERVER['WECHAT_URL'] . '/sns/jscode2session?' . $query);
curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
$answer = json_decode(curl_exec($curl), true);
curl_close($curl);
header('Content-Type: application/json');
if (!isset($answer['openid'])) http_response_code(401);
echo json_encode(['openid' => $answer['openid'] ?? null]);
